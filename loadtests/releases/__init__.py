"""Releases end to end: the demo's services, a real gateway, 2,000 users, and what they saw.

``make chaos`` plays these beside its own scenarios; see docs/chaos.md.
"""
