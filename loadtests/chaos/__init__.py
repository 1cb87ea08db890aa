"""``make chaos``: real gateway processes, real backends, real kills, load running, and a judgement.

See docs/chaos.md.
"""
