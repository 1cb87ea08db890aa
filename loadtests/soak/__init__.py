"""``make soak``: mixed traffic with faults for half an hour, and what is left over afterwards.

See docs/soak.md.
"""
