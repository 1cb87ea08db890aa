"""How many places in flight, and in a service's queue, a worker may take: decisions, no I/O. Pure.

The bounds are the machine's, the queues are the workers': each serves its own waiters, first come,
first served. Among workers that all have waiters nobody takes more than an even part, so that the
one that happens to hold all places does not keep them.
"""

from __future__ import annotations


def even_part(bound: int, rivals: int) -> int:
    """Return what one of ``rivals`` + 1 workers may have of ``bound``, rounded up."""
    return -(-bound // (1 + rivals))


def may_enter(own: int, total: int, limit: int, rivals: int, others_wait: int) -> bool:
    """Tell whether a waiter may have a place in flight.

    ``own`` and ``total`` are this worker's and the machine's requests in flight, ``rivals`` the
    other workers with waiters and ``others_wait`` how many those are. Beyond its even part a worker
    leaves as many places free as others have waiters for.
    """
    if total >= limit:
        return False
    return own < even_part(limit, rivals) or limit - total > others_wait


def may_join(own: int, total: int, length: int, rivals: int) -> bool:
    """Tell whether a request may wait.

    ``own`` and ``total`` are this worker's waiters and the machine's, ``rivals`` the other workers
    that have waiters or have lately refused a request.
    """
    if total >= length:
        return False
    return rivals == 0 or own < even_part(length, rivals)
