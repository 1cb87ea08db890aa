"""Trace context and request ids: W3C ``traceparent`` (Trace Context, Level 2 candidate), checked.

``00-<trace id: 32 hex>-<parent id: 16 hex>-<flags: 2 hex>``, lower case, neither id all zero. A
version that is not known yet is read as far as version 00 goes and answered as version 00; ``ff``
is invalid. Of the flags those two that are defined (sampled 1, random 2) are kept.

The gateway is a hop of its own: the trace id stays, the parent id becomes the gateway's, which the
access log carries. Where nothing valid came a trace is begun, sampled: backends whose samplers
follow their parent would record nothing below an unsampled one. ``tracestate`` goes on only where
the trace was continued (``continues``).
"""

from __future__ import annotations

import cython

if cython.compiled:
    from cython.cimports.libc.string import memcpy

#: The longest request id that is taken over from a trusted proxy, in octets.
MAX_REQUEST_ID = 128
_LENGTH = 55


def _hex_values() -> bytes:
    """Return a table of lower-case hex digits' values, 255 for anything else."""
    table = bytearray([255]) * 256
    for digit in b"0123456789abcdef":
        table[digit] = int(chr(digit), 16)
    return bytes(table)


_HEX = cython.declare(bytes, _hex_values())
# The flags as they go on, by the last hex digit that came (the first holds no defined flag).
_FLAGS = cython.declare(tuple, (b"-00", b"-01", b"-02", b"-03"))


@cython.cfunc
def _flags_of(value: bytes) -> cython.int:
    """Return the defined flags of a valid ``traceparent``, -1 for an invalid one."""
    d: bytes = value
    table: bytes = _HEX
    size: cython.Py_ssize_t = len(d)
    i: cython.Py_ssize_t
    digit: cython.int
    trace: cython.int = 0
    parent: cython.int = 0
    if size < 55 or d[2] != 45 or d[35] != 45 or d[52] != 45:
        return -1
    i = 0
    while i < 55:
        if i not in {2, 35, 52}:
            digit = table[d[i]]
            if digit == 255:
                return -1
            if i > 2 and i < 35:
                trace |= digit
            elif i > 35 and i < 52:
                parent |= digit
        i += 1
    if trace == 0 or parent == 0:
        return -1
    if d[0] == 48 and d[1] == 48:
        if size != 55:
            return -1
    elif (d[0] == 102 and d[1] == 102) or (size > 55 and d[55] != 45):
        return -1
    digit = table[d[54]]
    return digit & 3


def continues(value: bytes) -> bool:
    """Tell whether a ``traceparent`` is valid, so that its trace (and ``tracestate``) goes on."""
    return _flags_of(value) >= 0


@cython.ccall
def continue_or_begin(value: bytes | None, random48hex: bytes) -> bytes:
    """Return the ``traceparent`` to send upstream.

    ``value`` is what came, if anything; ``random48hex`` 48 lower-case hex digits: a trace id (used
    where a trace is begun) and the gateway's own parent id.
    """
    flags: cython.int = -1
    if value is not None:
        flags = _flags_of(value)
        if flags >= 0:
            # Both ids and both dashes: the trace id is octets 3 to 34 of what came.
            last: bytes = _FLAGS[flags]
            return _put(value, 3, random48hex, last)
    return _put(random48hex, 0, random48hex, b"-01")


@cython.cfunc
def _put(trace: bytes, at: cython.Py_ssize_t, random48hex: bytes, flags: bytes) -> bytes:
    """Put a ``traceparent`` together: the 32 digits at a place, the gateway's own 16, the flags."""
    if cython.compiled:
        # Slices and sums would make seven objects on the way.
        octets = cython.declare(cython.char[55])  # type: ignore[misc, valid-type]
        ids = cython.declare(cython.pointer(cython.char), trace)
        own = cython.declare(cython.pointer(cython.char), random48hex)
        if len(trace) < at + 32 or len(random48hex) < 48 or len(flags) != 3:
            raise ValueError("a trace is made of 48 hex digits")
        memcpy(octets, b"00-", 3)
        memcpy(octets + 3, ids + at, 32)
        octets[35] = 45
        memcpy(octets + 36, own + 32, 16)
        memcpy(octets + 52, cython.cast(cython.p_char, flags), 3)
        return cython.cast(bytes, octets[:55])
    else:  # noqa: RET505 - the compiler leaves one of the two out
        return b"00-" + trace[at : at + 32] + b"-" + random48hex[32:48] + flags


def valid_request_id(value: bytes) -> bool:
    """Tell whether a request id may be taken over: 1 to 128 visible ASCII characters."""
    d: bytes = value
    size: cython.Py_ssize_t = len(d)
    i: cython.Py_ssize_t = 0
    if size == 0 or size > 128:  # MAX_REQUEST_ID
        return False
    while i < size:
        if d[i] < 33 or d[i] > 126:
            return False
        i += 1
    return True
