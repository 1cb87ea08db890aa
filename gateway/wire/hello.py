"""A TLS client's first message, looked at before OpenSSL has it (RFC 8446 section 4.1.2).

For one thing: key exchange over finite fields (RFC 7919). A client may send any octets as its share
and have the server raise numbers of up to 8,192 bits to powers of as many, 350 times the work of a
handshake over X25519, for a packet of its own (CVE-2022-40735). OpenSSL offers these groups, and
Python's ``ssl`` has no call that takes them away and leaves more than one other.

Everything else is OpenSSL's to judge: what is no hello, or none that can be read, is left to it.
"""

from __future__ import annotations

from typing import Final

import cython

#: What a look at the first octets comes to: more are needed; leave it to OpenSSL; refuse it.
MORE: Final = 0
FINE: Final = 1
REFUSED: Final = 2

#: Octets of a hello, and records that it comes in: real ones have two thousand, in one or two.
#: OpenSSL would take 128 KiB in as many records, each of which is looked at again with the next.
MAX_HELLO: Final = 32 * 1024
MAX_RECORDS: Final = 16
#: RFC 8446 section 5.1.
_MAX_RECORD: Final = 16 * 1024

#: A fatal alert, handshake_failure (RFC 8446 section 6), as a record.
FAILURE: Final = b"\x15\x03\x03\x00\x02\x02\x28"

_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_SUPPORTED_GROUPS: Final = 10
_KEY_SHARE: Final = 51


def judge(octets: bytes) -> int:
    """Tell MORE, FINE or REFUSED of all that a client has sent so far, records and all."""
    message = _assembled(octets)
    if message is None:
        return REFUSED
    if not message:
        return MORE
    # What is no hello is refused by OpenSSL, in its words.
    return REFUSED if message[0] == _CLIENT_HELLO and _asks_for_fields(message) else FINE


@cython.cfunc
def _assembled(octets: bytes) -> bytes | None:
    """Return the first message, empty while it is not whole, None where nobody sends such a one.

    One record holds it in nearly every case; fragments are put together (RFC 8446 section 5.1).
    """
    size: cython.Py_ssize_t = len(octets)
    at: cython.Py_ssize_t = 0
    length: cython.Py_ssize_t
    wanted: cython.Py_ssize_t = 4
    records: cython.int = 0
    message: bytes = b""
    while len(message) < wanted:
        if size < at + 5:
            return b""
        length = octets[at + 3] << 8 | octets[at + 4]
        records += 1
        if octets[at] != _HANDSHAKE or not 0 < length <= _MAX_RECORD or records > MAX_RECORDS:
            return None  # nothing stands between the parts of a hello
        if size < at + 5 + length:
            return b""
        message += octets[at + 5 : at + 5 + length]
        at += 5 + length
        if wanted == 4 and len(message) >= 4:
            wanted += message[1] << 16 | message[2] << 8 | message[3]
            if wanted > MAX_HELLO:
                return None
    return message[:wanted]


@cython.cfunc
def _asks_for_fields(message: bytes) -> cython.bint:
    """Tell whether a whole hello has a share of such a group, or no curve to fall back on."""
    at: cython.Py_ssize_t = 4 + 2 + 32
    kind: cython.int
    length: cython.Py_ssize_t
    end: cython.Py_ssize_t = len(message)
    last: cython.Py_ssize_t = end - 4
    # Bounds are looked at here and not by an exception: what runs over is no hello.
    if at <= last:
        at += 1 + message[at]  # session id
    if at <= last:
        at += 2 + (message[at] << 8 | message[at + 1])  # cipher suites
    if at <= last:
        at += 1 + message[at]  # compression
    at += 2
    while at <= last:
        kind = message[at] << 8 | message[at + 1]
        length = message[at + 2] << 8 | message[at + 3]
        at += 4
        if kind == _KEY_SHARE:
            if _has_field_share(message, at + 2, min(at + length, end)):
                return True
        elif kind == _SUPPORTED_GROUPS and not _has_curve(message, at + 2, min(at + length, end)):
            return True
        at += length
    return False


@cython.cfunc
def _has_field_share(message: bytes, at: cython.Py_ssize_t, end: cython.Py_ssize_t) -> cython.bint:
    while at + 4 <= end:
        if message[at] == 1:  # 0x0100 to 0x01ff are finite fields
            return True
        at += 4 + (message[at + 2] << 8 | message[at + 3])
    return False


@cython.cfunc
def _has_curve(message: bytes, at: cython.Py_ssize_t, end: cython.Py_ssize_t) -> cython.bint:
    """Tell of X25519, P-256, P-384, X448 and P-521 (RFC 8446 section 4.2.7)."""
    octet: cython.int
    while at + 2 <= end:
        octet = message[at + 1]
        if message[at] == 0 and (23 <= octet <= 25 or 29 <= octet <= 30):
            return True
        at += 2
    return False
