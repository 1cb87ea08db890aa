"""What a request-target and a Host mean, and which of them two readers could take differently.

A target goes upstream untouched; what is made here is the copy that routes are matched over. A
path has two readings:

* the **strict** one (``match_path``): percent-encoded unreserved octets are decoded and the hex
  digits of every other escape are upper case (RFC 3986 sections 6.2.2.1 and 6.2.2.2), which changes
  no path's meaning. ``/%61pi/`` is ``/api/``, ``/caf%c3%a9`` is ``/caf%C3%A9``; ``%2F`` stays.
* the **lenient** one (``lenient_path``): what the most careless backend makes of it. ``%2F`` and
  ``%5C`` are slashes, repeated slashes are one, ``;parameters`` of a segment (also behind ``%3B``)
  are no part of it, and ``%3F`` or ``%23`` end it.

Refused with ``TargetError`` is what no honest client sends and two backends read in two ways: dot
segments in either reading (``..``, ``%2e%2E``, ``..%2f``, ``..;x``), a raw backslash or ``#``,
escapes of control octets (``%00``), overlong UTF-8 (``%C0%AE`` once passed for a dot), malformed
escapes, octets outside visible ASCII. Where the two readings merely differ (an ``a%2Fb`` that is
one name), it is the router that decides: it refuses a path whose readings lead to two routes.

Not told apart: letters' case (paths are case-sensitive), names that one file system takes for the
same (``a`` and ``a.`` on Windows), and what is encoded twice (``%252e`` is the text ``%2e``; a
backend that decodes twice is broken for every client).
"""

from __future__ import annotations

import ipaddress

import cython
from gateway.wire.errors import WireError

#: The longest host that is taken: a DNS name's limit, in octets.
MAX_HOST = 255
MAX_PORT_DIGITS = 5

# Classes of a path's octets.
_PLAIN, _END, _DOT, _LOOK, _REFUSED = range(5)
# Classes of a host's octets: refused, lower case, upper case, dot.
_H_REFUSED, _H_LOWER, _H_UPPER, _H_DOT = range(4)


def _path_classes() -> bytes:
    table = bytearray([_REFUSED]) * 256
    for octet in range(0x21, 0x7F):
        table[octet] = _PLAIN
    table[ord("?")] = _END
    table[ord(".")] = _DOT
    table[ord("%")] = table[ord(";")] = _LOOK
    table[ord("#")] = table[ord("\\")] = _REFUSED
    return bytes(table)


def _host_classes() -> bytes:
    table = bytearray(256)
    for octet in b"abcdefghijklmnopqrstuvwxyz0123456789-_":
        table[octet] = _H_LOWER
    for octet in b"ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        table[octet] = _H_UPPER
    table[ord(".")] = _H_DOT
    return bytes(table)


def _hex_values() -> bytes:
    table = bytearray([255]) * 256
    for digit in b"0123456789abcdefABCDEF":
        table[digit] = int(chr(digit), 16)
    return bytes(table)


def _unreserved() -> bytes:
    table = bytearray(256)
    for octet in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~":
        table[octet] = 1
    return bytes(table)


# C's copies (bytes objects behind C variables, not looked up by name).
_PATH_CLASS = cython.declare(bytes, _path_classes())
_HOST_CLASS = cython.declare(bytes, _host_classes())
_HEX = cython.declare(bytes, _hex_values())
_UNRESERVED = cython.declare(bytes, _unreserved())


class TargetError(WireError):
    """A target or host that is malformed, or that two readers could take differently.

    ``kind`` is one of ``bad-target``, ``bad-escape``, ``dot-segment``, ``ambiguous-path``,
    ``bad-scheme``, ``bad-host``; the status is always 400.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message, 400)


@cython.ccall
def match_path(target: bytes) -> bytes:
    """Return the strict reading of an origin-form target's path, without the query.

    A path with nothing to decode is returned as it stands. Raises TargetError (see the module).
    """
    d: bytes = target
    table: bytes = _PATH_CLASS
    size: cython.Py_ssize_t = len(d)
    i: cython.Py_ssize_t
    kind: cython.int
    slow: cython.bint = False
    if size == 0 or d[0] != 47:
        raise TargetError("bad-target", "a path begins with '/'")
    i = 1
    while i < size:
        kind = table[d[i]]
        if kind != 0:
            if kind == 1:
                break
            if kind == 4:
                raise TargetError("bad-target", f"octet 0x{d[i]:02x} in the path")
            # A dot matters only where it begins a segment.
            if kind == 3 or d[i - 1] == 47:
                slow = True
        i += 1
    if slow:
        return _decode_path(d, i)
    return d if i == size else d[:i]


@cython.cfunc
def _decode_path(d: bytes, end: cython.Py_ssize_t) -> bytes:
    """Decode unreserved octets of ``d[:end]``, refuse what must be, return the strict reading."""
    at: cython.Py_ssize_t
    copied: cython.Py_ssize_t = 0
    octet: cython.int
    last: cython.int = 0
    parts: list[bytes] = []
    at = d.find(b"%", 0, end)
    while at >= 0:
        octet = _escape(d, at, end)
        if octet < 32 or octet == 127:
            raise TargetError("bad-escape", f"%{octet:02X} is a control octet")
        if copied == at and _overlong(last, octet):
            raise TargetError("bad-escape", f"%{last:02X}%{octet:02X} is overlong UTF-8")
        parts.append(d[copied:at])
        if _UNRESERVED[octet]:
            parts.append(bytes((octet,)))
        else:
            parts.append(d[at : at + 3].upper())
        copied = at + 3
        last = octet
        at = d.find(b"%", copied, end)
    parts.append(d[copied:end])
    path = b"".join(parts)
    if _has_dot_segment(path):
        raise TargetError("dot-segment", "a '.' or '..' segment, plain or encoded")
    return path


@cython.cfunc
def _escape(d: bytes, at: cython.Py_ssize_t, end: cython.Py_ssize_t) -> cython.int:
    """Return the octet that the escape at ``at`` stands for."""
    table: bytes = _HEX
    high: cython.int
    low: cython.int
    if at + 2 >= end:
        raise TargetError("bad-escape", "a '%' without two hex digits")
    high = table[d[at + 1]]
    low = table[d[at + 2]]
    if high > 15 or low > 15:
        raise TargetError("bad-escape", "a '%' without two hex digits")
    return high * 16 + low


@cython.cfunc
def _overlong(first: cython.int, second: cython.int) -> cython.bint:
    """Tell whether two octets begin a UTF-8 sequence longer than its character needs (RFC 3629)."""
    if second < 0x80 or second > 0xBF:
        return False
    if first in {0xC0, 0xC1}:
        return True
    return (first == 0xE0 and second < 0xA0) or (first == 0xF0 and second < 0x90)


@cython.cfunc
def _lenient_octet(d: bytes, at: cython.Py_ssize_t) -> cython.int:
    """Return what a careless reader takes the octet at ``at`` of a strict reading for.

    ``/``, ``;``, ``?`` (the path ends) and 0 for anything else.
    """
    c: cython.int = d[at]
    if c in {47, 59}:
        return c
    if c != 37:
        return 0
    # The strict reading has upper-case hex and whole escapes only.
    code = d[at + 1 : at + 3]
    if code in {b"2F", b"5C"}:
        return 47
    if code == b"3B":
        return 59
    return 63 if code in {b"3F", b"23"} else 0


@cython.cfunc
def _has_dot_segment(d: bytes) -> cython.bint:
    """Tell whether any segment of a strict reading is a dot segment to any reader."""
    size: cython.Py_ssize_t = len(d)
    at: cython.Py_ssize_t = 1
    octets: cython.Py_ssize_t = 0
    dots: cython.Py_ssize_t = 0
    kind: cython.int
    while at < size:
        kind = _lenient_octet(d, at)
        if kind:
            if octets == dots and (dots == 1 or dots == 2):  # noqa: PLR1714 - C, not a set
                return True
            # Parameters and what follows an encoded '?' are counted as if they were a segment:
            # that refuses `/a;../b` too, which nobody sends and some readers resolve.
            octets = dots = 0
        else:
            octets += 1
            dots += d[at] == 46
        at += 3 if d[at] == 37 else 1
    return octets == dots and (dots == 1 or dots == 2)  # noqa: PLR1714 - C, not a set


@cython.cfunc
def _doubtful(d: bytes) -> cython.bint:
    """Tell whether a careless reader takes anything in ``d`` for something else."""
    size: cython.Py_ssize_t = len(d)
    at: cython.Py_ssize_t = 0
    kind: cython.int
    last: cython.int = 0
    while at < size:
        kind = _lenient_octet(d, at)
        if kind and (d[at] != 47 or last == 47):
            return True
        last = kind
        at += 1
    return False


def lenient_path(path: bytes) -> bytes:
    """Return what the most careless backend makes of a strict reading (see the module).

    The result begins with one ``/``; a path that leaves nothing to doubt is returned as it stands.
    """
    d: bytes = path
    size: cython.Py_ssize_t = len(d)
    at: cython.Py_ssize_t = 0
    step: cython.Py_ssize_t
    kind: cython.int
    slash: cython.bint = False
    parameters: cython.bint = False
    if not _doubtful(d):
        return d
    kept = bytearray()
    while at < size:
        kind = _lenient_octet(d, at)
        step = 3 if d[at] == 37 else 1
        if kind == 63:
            break
        if kind == 47:
            if not slash:
                kept += b"/"
            slash = True
            parameters = False
        elif kind == 59:
            parameters = True
        elif not parameters:
            kept += d[at : at + step]
            slash = False
        at += step
    return bytes(kept)


def prefix_path(path: bytes) -> bytes:
    """Return a configured path as requests are matched with it: its strict reading.

    Raises TargetError for one that no request can match: with a query, or read in two ways itself.
    """
    if b"?" in path:
        raise TargetError("bad-target", "a query in a path prefix")
    strict = match_path(path)
    if lenient_path(strict) != strict:
        raise TargetError("ambiguous-path", "a path prefix has no '//', ';', %2F, %3F and the like")
    return strict


def split_absolute(target: bytes) -> tuple[bytes, bytes, bytes]:
    """Split an absolute-form target (RFC 9112 section 3.2.2) of http or https.

    Returns the scheme in lower case, the authority as sent (``valid_host`` reads it) and the
    origin-form; an empty path is ``/``. Raises TargetError.
    """
    colon: cython.Py_ssize_t = target.find(b"://")
    if colon < 0:
        raise TargetError("bad-target", "neither origin-form nor absolute-form")
    scheme = target[:colon].lower()
    if scheme not in {b"http", b"https"}:
        raise TargetError("bad-scheme", "the scheme is neither http nor https")
    rest = target[colon + 3 :]
    slash: cython.Py_ssize_t = rest.find(b"/")
    query: cython.Py_ssize_t = rest.find(b"?")
    if slash >= 0 and (query < 0 or slash < query):
        return scheme, rest[:slash], rest[slash:]
    if query >= 0:
        return scheme, rest[:query], b"/" + rest[query:]
    return scheme, rest, b"/"


def valid_host(value: bytes) -> tuple[bytes, int]:
    """Read a Host field or an authority (RFC 9110 section 7.2): the host and its port.

    The host is in lower case, without a final dot (``a.example.`` is the same name), an IPv6
    literal in brackets and in its shortest form. The port is 0 where none is given. Narrower than
    RFC 3986's reg-name, whose escapes and sub-delimiters no DNS name has: letters, digits, ``-``,
    ``_`` and dots between labels. Raises TargetError, also for user information and blanks.
    """
    d: bytes = value
    table: bytes = _HOST_CLASS
    size: cython.Py_ssize_t = len(d)
    i: cython.Py_ssize_t = 0
    kind: cython.int
    upper: cython.bint = False
    dot: cython.bint = True
    if size == 0 or size > MAX_HOST + 1 + MAX_PORT_DIGITS:
        raise TargetError("bad-host", f"a host has 1 to {MAX_HOST} octets")
    if d[0] == 91:
        return _ipv6_literal(d)
    while i < size:
        kind = table[d[i]]
        if kind == 1:
            dot = False
        elif kind == 2:
            upper = True
            dot = False
        elif kind == 3:
            if dot:
                raise TargetError("bad-host", "an empty label in the host")
            dot = True
        else:
            break
        i += 1
    if i < size and d[i] != 58:
        raise TargetError("bad-host", f"octet 0x{d[i]:02x} in the host")
    port = 0 if i == size else _port(d, i + 1)
    if dot:
        i -= 1
    if i < 1 or i > MAX_HOST:
        raise TargetError("bad-host", f"a host has 1 to {MAX_HOST} octets")
    host = d if i == size else d[:i]
    return (host.lower() if upper else host), port


@cython.cfunc
def _port(d: bytes, at: cython.Py_ssize_t) -> cython.int:
    """Read the port that begins at ``at`` and ends with ``d``; an empty one is none."""
    size: cython.Py_ssize_t = len(d)
    port: cython.int = 0
    c: cython.int
    if at == size:
        return 0
    # Bounded by its digits before it is accumulated: a C number would wrap.
    if size - at > 5:
        raise TargetError("bad-host", "a port has at most 5 digits")
    while at < size:
        c = d[at]
        if c < 48 or c > 57:
            raise TargetError("bad-host", f"octet 0x{c:02x} in the port")
        port = port * 10 + (c - 48)
        at += 1
    if port == 0 or port > 65535:
        raise TargetError("bad-host", "a port is 1 to 65535")
    return port


@cython.cfunc
def _ipv6_literal(d: bytes) -> tuple[bytes, int]:
    """Read ``[IPv6]`` and its port. Neither zones (RFC 6874) nor IPvFuture: no client has them."""
    size: cython.Py_ssize_t = len(d)
    close: cython.Py_ssize_t = d.find(b"]")
    if close < 0 or (close + 1 < size and d[close + 1] != 58):
        raise TargetError("bad-host", "an IPv6 literal is '[' address ']' and perhaps a port")
    text = d[1:close]
    if b"%" in text:
        raise TargetError("bad-host", "a zone has no meaning outside its own machine")
    try:
        address = ipaddress.IPv6Address(text.decode("ascii"))
    except ValueError as error:
        raise TargetError("bad-host", "not an IPv6 address between the brackets") from error
    port = 0 if close + 1 == size else _port(d, close + 2)
    return b"[%s]" % str(address).encode(), port
