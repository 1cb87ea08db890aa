"""Cohorts: who a client is, and which bucket of a split it falls into.

``bucket = keyed_hash(salt, key) % 10000``; a client is on the candidate when ``bucket < weight``.
So nobody leaves the candidate while the weight rises, 0 means none and 100 % means all, and another
salt (another release) has other guinea pigs. A client's key is the gateway's own cookie, else a
trusted identity, else its address.

The hash is BLAKE2b (RFC 7693) keyed with the salt. One digest gives the bucket and, from octets
that the bucket does not use, the opaque key that upstreams are told.
"""

from __future__ import annotations

import binascii
import ipaddress
from hashlib import blake2b
from typing import Literal

import cython

BUCKETS = 10_000

#: What a cohort key was made of.
KeyKind = Literal["cookie", "identity", "address"]

#: The gateway's own cookies besides the configured name of the cohort's.
OVERRIDE_COOKIE = b"gw_override"

#: A cookie's value: 16 random octets in unpadded URL-safe base64 (RFC 4648 section 5).
COOKIE_LENGTH = 22

#: Answers kept per salt, so that a client's second request need not be hashed; dropped when full.
MEMO_SIZE = 4096
_MAX_BLAKE2_KEY = 64
_MAX_MEMO_KEY = 128


def _url_safe() -> bytes:
    """Return a table: 1 for base64url's characters, 3 for those that may be the 22nd.

    22 characters hold 132 bits, of which the last four are zero: one value has one spelling.
    """
    table = bytearray(256)
    for octet in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
        table[octet] = 1
    for octet in b"AQgw":
        table[octet] = 3
    return bytes(table)


_URL_SAFE = cython.declare(bytes, _url_safe())
_TO_URL_SAFE = bytes.maketrans(b"+/", b"-_")


@cython.final
@cython.cclass
class Splitter:
    """One split's salt, ready to hash keys with. Of any length; an empty salt is a salt too."""

    salt: bytes = cython.declare(bytes, visibility="readonly")
    _keyed: object
    _memo: dict[bytes, tuple[int, bytes]]

    def __init__(self, salt: bytes) -> None:
        self.salt = salt
        key = salt if len(salt) <= _MAX_BLAKE2_KEY else blake2b(salt, digest_size=64).digest()
        self._keyed = blake2b(key=key, digest_size=16, person=b"gateway-cohort")
        self._memo = {}

    @cython.ccall
    def assign(self, key: bytes) -> tuple[int, bytes]:
        """Return a key's bucket (0 to 9,999) and its opaque form (16 hex digits)."""
        known = self._memo.get(key)
        if known is not None:
            return known
        return self._assign(key)

    def decide(self, key: bytes) -> int:
        """Return a key's bucket, 0 to 9,999."""
        bucket: int = self.assign(key)[0]
        return bucket

    @cython.cfunc
    def _assign(self, key: bytes) -> tuple[int, bytes]:
        i: cython.Py_ssize_t
        number: cython.ulonglong = 0
        state = self._keyed.copy()  # type: ignore[attr-defined]  # a C attribute is an object
        state.update(key)
        digest: bytes = state.digest()
        # 56 bits: no number wraps, and 10,000 buckets differ by less than one key in 10**12.
        for i in range(7):
            number = number * 256 + digest[i]
        answer = (number % 10_000, binascii.hexlify(digest[8:]))
        if len(key) <= _MAX_MEMO_KEY:
            if len(self._memo) >= MEMO_SIZE:
                self._memo.clear()
            self._memo[key] = answer
        return answer


def is_candidate(bucket: int, weight: int) -> bool:
    """Tell whether a bucket is on the candidate's side at ``weight`` (0 to 10,000)."""
    return bucket < weight


# --- cookies (RFC 6265) -----------------------------------------------------------------------


@cython.cfunc
@cython.exceptval(-2)
def _value_at(field: bytes, name: bytes, start: cython.Py_ssize_t) -> cython.Py_ssize_t:
    """Return where the value of the next pair called ``name`` begins, -1 where there is none."""
    d: bytes = field
    size: cython.Py_ssize_t = len(d)
    length: cython.Py_ssize_t = len(name)
    before: cython.Py_ssize_t
    at: cython.Py_ssize_t = _find(d, name, start)
    while at >= 0:
        start = at + length
        if start < size and d[start] == 61:
            before = at
            while before > 0 and (d[before - 1] == 32 or d[before - 1] == 9):
                before -= 1
            if before == 0 or d[before - 1] == 59:
                return start + 1
        at = _find(d, name, start)
    return -1


@cython.cfunc
@cython.exceptval(-2)
def _find(field: bytes, name: bytes, start: cython.Py_ssize_t) -> cython.Py_ssize_t:
    """Return where ``name`` is from ``start`` on, -1 where it is not. It is short and not empty."""
    if cython.compiled:
        # bytes.find() would be a Python call, with its numbers made into objects first.
        i: cython.Py_ssize_t
        length: cython.Py_ssize_t = len(name)
        last: cython.Py_ssize_t = len(field) - length
        d: cython.p_char = field
        n: cython.p_char = name
        first: cython.char = n[0]
        while start <= last:
            if d[start] == first:
                i = 1
                while i < length and d[start + i] == n[i]:
                    i += 1
                if i == length:
                    return start
            start += 1
        return -1
    else:  # noqa: RET505 - the compiler leaves one of the two out
        return field.find(name, start)


@cython.cfunc
@cython.exceptval(-2)
def _semicolon(field: bytes, start: cython.Py_ssize_t) -> cython.Py_ssize_t:
    """Return where the pair that ``start`` is in ends at a ``;``, -1 where it is the last."""
    if cython.compiled:
        size: cython.Py_ssize_t = len(field)
        d: cython.p_char = field
        while start < size:
            if d[start] == 59:
                return start
            start += 1
        return -1
    else:  # noqa: RET505
        return field.find(b";", start)


@cython.cfunc
def _cut(field: bytes, start: cython.Py_ssize_t, end: cython.Py_ssize_t) -> bytes:
    """Return ``field[start:end]``, without the slice object that this would make first."""
    if cython.compiled:
        d: cython.p_char = field
        if start < 0 or end < start or end > len(field):
            raise IndexError(f"{start} to {end} of {len(field)} octets")
        return d[start:end]
    else:  # noqa: RET505
        return field[start:end]


def cookie_value(field: bytes, name: bytes) -> bytes | None:
    """Return the first value of the cookie ``name`` in a Cookie field, without outer blanks."""
    if not name:
        return None
    at: cython.Py_ssize_t = _value_at(field, name, 0)
    if at < 0:
        return None
    end: cython.Py_ssize_t = _semicolon(field, at)
    return (field[at:] if end < 0 else field[at:end]).strip(b" \t")


@cython.ccall
def cohort_cookie(field: bytes, name: bytes) -> bytes | None:
    """Return the first value of the cohort cookie that the gateway could have made, else None."""
    d: bytes = field
    table: bytes = _URL_SAFE
    size: cython.Py_ssize_t = len(d)
    i: cython.Py_ssize_t
    end: cython.Py_ssize_t
    at: cython.Py_ssize_t = _value_at(d, name, 0) if name else -1
    while at >= 0:
        end = at + 22  # COOKIE_LENGTH
        if end <= size and (end == size or d[end] in {59, 32, 9}):
            i = at
            while i < end and table[d[i]]:
                i += 1
            if i == end and table[d[end - 1]] == 3:
                return _cut(d, at, end)
        at = _value_at(d, name, at)
    return None


@cython.ccall
def strip_cookies(field: bytes, names: tuple[bytes, ...]) -> bytes:
    """Return a Cookie field's value without the cookies called ``names``.

    Everything else stays byte for byte and in its order; a field without any of them is returned as
    it stands; where nothing is left the value is empty and the field is to be left out.
    """
    left: bytes = field
    at: cython.Py_ssize_t
    begin: cython.Py_ssize_t
    end: cython.Py_ssize_t
    name: bytes
    for name in names:
        at = _value_at(left, name, 0) if name else -1
        if at < 0:
            continue
        end = _semicolon(left, at)
        if end >= 0 and _value_at(left, name, end) >= 0:
            # Cutting them out one by one would copy the field for each: a client's to abuse.
            return _strip_many(left, names)
        begin = at - len(name) - 2
        while begin >= 0 and left[begin] != 59:
            begin -= 1
        if begin >= 0:
            left = _cut(left, 0, begin) if end < 0 else left[:begin] + left[end:]
        else:
            left = b"" if end < 0 else left[end + 1 :].lstrip(b" \t")
    if left is field:
        return left
    for at in range(len(left)):
        if left[at] not in (32, 9, 59):
            return left
    return b""


@cython.cfunc
def _strip_many(field: bytes, names: tuple[bytes, ...]) -> bytes:
    """Do the work of ``strip_cookies`` in one pass over any number of pairs."""
    pieces = field.split(b";")
    kept: list[bytes] = []
    for piece in pieces:
        name, equals, _ = piece.partition(b"=")
        if not (equals and name.lstrip(b" \t") in names):
            kept.append(piece)
    left = b";".join(kept)
    if not kept or kept[0] is not pieces[0]:
        left = left.lstrip(b" \t")
    return left if left.strip(b" \t;") else b""


def new_cookie_value(random16: bytes) -> bytes:
    """Return a new cohort cookie's value from 16 random octets."""
    if len(random16) != 16:
        raise ValueError(f"a cohort cookie is made of 16 random octets, not {len(random16)}")
    return binascii.b2a_base64(random16, newline=False).translate(_TO_URL_SAFE)[:COOKIE_LENGTH]


def set_cookie_field(
    name: bytes, value: bytes, max_age: int, domain: bytes | None, secure: bool
) -> bytes:
    """Return a complete ``Set-Cookie`` line, CRLF included. ``max_age`` is in seconds.

    HttpOnly and SameSite=Lax (RFC 6265bis section 4.1.2); Secure where the client came by TLS.
    """
    tail = b"; Domain=" + domain if domain else b""
    if secure:
        tail += b"; Secure"
    return b"Set-Cookie: %s=%s; Max-Age=%d; Path=/%s; HttpOnly; SameSite=Lax\r\n" % (
        name,
        value,
        max_age,
        tail,
    )


def is_navigation(
    method: bytes, sec_fetch_mode: bytes | None, accept: bytes | None, any_sec_fetch: bool
) -> bool:
    """Tell whether a request is a browser's navigation, which alone is given a cookie.

    ``Sec-Fetch-Mode: navigate`` says so itself (whatever the method: a form posts). A client that
    sends no ``Sec-Fetch-*`` field at all is taken at its ``Accept``: a GET or HEAD for HTML.
    """
    if sec_fetch_mode is not None:
        return sec_fetch_mode == b"navigate"
    if any_sec_fetch or accept is None or method not in {b"GET", b"HEAD"}:
        return False
    return b"text/html" in accept or b"text/html" in accept.lower()


# --- keys ---------------------------------------------------------------------------------------


_addresses: dict[str, bytes] = {}


def address_key(address: str) -> bytes:
    """Return what stands for an address: an IPv4 address itself, of IPv6 its /64.

    A subscriber has at least a /64 and moves within it (RFC 8981). IPv4-mapped addresses count as
    IPv4. What is no address (a UNIX socket's peer) stands for itself.
    """
    known = _addresses.get(address)
    if known is not None:
        return known
    key = _address_key(address)
    if len(address) > _MAX_MEMO_KEY:
        return key
    if len(_addresses) >= MEMO_SIZE:
        _addresses.clear()
    _addresses[address] = key
    return key


def _address_key(address: str) -> bytes:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address.encode("utf-8", "surrogateescape")[:_MAX_MEMO_KEY]
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is None:
            return str(ipaddress.IPv6Address(int(parsed) >> 64 << 64)).encode() + b"/64"
        parsed = parsed.ipv4_mapped
    return str(parsed).encode()


def cookie_key(value: bytes) -> bytes:
    """Return the cohort key of a cookie's value (one being given counts like one that came)."""
    return b"c:" + value


@cython.ccall
def cohort_key(
    cookie_field: bytes | None, cookie_name: bytes, identity: bytes | None, address: str
) -> tuple[bytes, KeyKind]:
    """Return a client's cohort key and what it was made of.

    The gateway's own cookie, else ``identity`` (of a trusted proxy or internal caller, or the
    authenticated subject: the caller vouches for it), else the address. The three kinds never give
    the same key.
    """
    if cookie_field is not None:
        value = cohort_cookie(cookie_field, cookie_name)
        if value is not None:
            return b"c:" + value, "cookie"
    if identity:
        return b"i:" + identity, "identity"
    return b"a:" + address_key(address), "address"
