"""A shared cache's rules (RFC 9111, 5861, 9110's conditions and ranges), given heads and ``now``.

Nothing here stores, sends or waits. Times are the epoch's, in seconds: copies outlive processes.
"""
