"""Who the client is behind trusted proxies, and what upstreams are told about it.

``X-Forwarded-For`` is read from the right: each entry was written by the one after it, so it counts
as long as that one is a trusted proxy. The first that is none is the client. An entry that is no
address ends the walk: the last good one stands. Whatever stands left of the client was written by
the client itself and is not passed on.

Without that field RFC 7239's ``Forwarded`` is read in the same way; one that breaks its grammar
counts as absent.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

import cython
from gateway.wire.target import TargetError, valid_host

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Proxies in a row that are looked through.
MAX_HOPS = 32
#: Longer ``Forwarded`` values are not read, in octets.
MAX_FORWARDED = 4096
#: Addresses whose reading is kept, unless it is said otherwise; dropped when full.
MEMO_SIZE = 4096
#: The longest text that may be an address with a port.
_MAX_ADDRESS = 64

_PROTOCOLS = frozenset((b"http", b"https"))
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PAIR = re.compile(
    rb"[ \t]*(?:(%s)=(%s|\"(?:[^\"\\\x00-\x1f\x7f]|\\[^\x00-\x1f\x7f])*\"))?[ \t]*([;,]|\Z)"
    % (_TOKEN, _TOKEN)
)
_IS_TOKEN = re.compile(_TOKEN)


@cython.final
@cython.cclass
class ProxyTrust:
    """A set of networks (CIDR) whose word counts. Raises ValueError for what is no network.

    Also the measure of ``internal_callers``, by ``trusts`` alone. A test costs one dictionary probe
    for an address seen lately, else one per prefix length that the networks have.
    """

    #: By (version, prefix length): the networks' leading bits.
    _networks: dict[tuple[int, int], set[int]]
    #: Text as it came: the address in its one spelling (empty: none), whether it is trusted.
    _known: dict[str, tuple[str, bool]]
    _remembers: cython.Py_ssize_t

    def __init__(self, networks: Sequence[str] = (), remembers: int = MEMO_SIZE) -> None:
        self._remembers = remembers
        self._networks = {}
        self._known = {}
        for text in networks:
            network = ipaddress.ip_network(text, strict=False)
            leading = int(network.network_address) >> (network.max_prefixlen - network.prefixlen)
            key = (network.version, network.prefixlen)
            self._networks.setdefault(key, set()).add(leading)

    def trusts(self, address: str) -> bool:
        """Tell whether ``address`` is in one of the networks; what is no address is in none."""
        return self._read(address)[1]

    def client_address(self, peer: str, xff: bytes | None, forwarded: bytes | None = None) -> str:
        """Return the client's address in its one spelling (see ``chain``)."""
        return self.chain(peer, xff, forwarded)[0]

    def chain(
        self, peer: str, xff: bytes | None, forwarded: bytes | None = None
    ) -> tuple[str, ...]:
        """Return the client's address and those of the trusted proxies up to the peer.

        ``peer`` is the connection's own; ``xff`` and ``forwarded`` are the fields' values, several
        of one name joined by commas. One element: the peer is the client. Addresses are in their
        one spelling, IPv4-mapped ones as IPv4; a peer without one (a UNIX socket) stays as it is.
        """
        known = self._read(peer)
        own = known[0] or peer
        if not known[1] or (xff is None and forwarded is None):
            return (own,)
        if xff is not None:
            # What is left unsplit at the front is no address and ends the walk.
            entries = xff.rsplit(b",", MAX_HOPS)
        else:
            assert forwarded is not None
            entries = forwarded_for(forwarded)
            entries = entries[max(len(entries) - MAX_HOPS, 0) :]
        found = [own]
        for entry in reversed(entries):
            known = self._read(_without_port(entry))
            if not known[0]:
                break
            found.append(known[0])
            if not known[1]:
                break
        found.reverse()
        return tuple(found)

    @cython.cfunc
    def _read(self, text: str) -> tuple[str, bool]:
        known = self._known.get(text)
        if known is None:
            known = self._judge(text)
            if len(text) > _MAX_ADDRESS:
                return known
            if len(self._known) >= self._remembers:
                self._known.clear()
            self._known[text] = known
        return known

    @cython.cfunc
    def _judge(self, text: str) -> tuple[str, bool]:
        if not text or len(text) > _MAX_ADDRESS:
            return "", False
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            return "", False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        number = int(address)
        for (version, length), leading in self._networks.items():
            if version == address.version and number >> (address.max_prefixlen - length) in leading:
                return str(address), True
        return str(address), False


def _without_port(entry: bytes) -> str:
    """Return the address of ``a``, ``a:port``, ``[v6]`` or ``[v6]:port``; empty for neither."""
    text = entry.strip(b" \t").decode("latin-1")
    if len(text) > _MAX_ADDRESS:
        return ""
    if text.startswith("["):
        address, close, rest = text[1:].partition("]")
        return address if close and ":" in address and _is_port(rest) else ""
    if text.count(":") == 1:
        address, _, port = text.partition(":")
        return address if _is_port(":" + port) else ""
    # A zone names an interface of another machine.
    return "" if "%" in text else text


def _is_port(text: str) -> bool:
    return not text or (text[0] == ":" and text[1:].isdecimal() and len(text) < 7)


def forwarded_for(value: bytes) -> list[bytes]:
    """Return the ``for`` of each element of a ``Forwarded`` field, unquoted, in its order.

    An element without one gives an empty text. Empty where the field breaks RFC 7239's grammar or
    is longer than MAX_FORWARDED.
    """
    if len(value) > MAX_FORWARDED:
        return []
    nodes: list[bytes] = []
    node = b""
    at = 0
    while True:
        pair = _PAIR.match(value, at)
        if pair is None:
            return []
        if pair[1] is not None and pair[1].lower() == b"for":
            if node:
                return []  # twice in one element
            node = _unquoted(pair[2])
        if pair[3] != b";":
            nodes.append(node)
            node = b""
        if not pair[3]:
            return nodes
        at = pair.end()


def _unquoted(text: bytes) -> bytes:
    if text[:1] != b'"':
        return text
    return re.sub(rb"\\(.)", rb"\1", text[1 : len(text) - 1])


def forwarded_proto(value: bytes | None, own: bytes, proxies: int = 1) -> bytes:
    """Return a trusted proxy's ``X-Forwarded-Proto`` where it is one, else the connection's own.

    Of a list, the element of the proxy that the client is at, ``proxies`` from the right: those
    before it are the client's own. A shorter one was not added to by all: its first counts.
    """
    if value is None:
        return own
    if value not in _PROTOCOLS:
        members = value.rsplit(b",", MAX_HOPS)
        value = members[max(len(members) - max(proxies, 1), 0)].strip(b" \t").lower()
    return value if value in _PROTOCOLS else own


def forwarded_host(value: bytes | None, own: bytes) -> bytes:
    """Return a trusted proxy's ``X-Forwarded-Host`` where it is a host, else the request's own."""
    if value is None:
        return own
    try:
        valid_host(value)
    except TargetError:
        return own
    return value


def forwarded_block(
    client: str,
    peer: str,
    proto: bytes,
    host: bytes,
    by: bytes = b"",
    between: tuple[str, ...] = (),
) -> bytes:
    """Return the lines that tell an upstream where a request came from, CRLFs included.

    ``X-Forwarded-For``, ``-Proto``, ``-Host`` and ``Forwarded`` (RFC 7239) replace whatever came.
    An untrusted peer is the client: the fields are rebuilt with it alone. Behind trusted proxies
    the chain is client, ``between``, peer. ``proto`` and ``host`` are the client's (checked by
    ``valid_host``), ``by`` a node of RFC 7239 for the gateway, if it is to be told.
    """
    block = b"X-Forwarded-For: %s\r\nX-Forwarded-Proto: %s\r\nX-Forwarded-Host: %s\r\n"
    told = host if _IS_TOKEN.fullmatch(host) else b'"%s"' % host
    first = b"for=%s;host=%s;proto=%s" % (_node(client), told, proto)
    if client == peer and not between:
        addresses = client.encode()
        elements = first
    else:
        hops = (*between, peer)
        addresses = ", ".join((client, *hops)).encode()
        elements = first + b"".join([b", for=" + _node(hop) for hop in hops])
    if by:
        elements += b";by=" + (by if _IS_TOKEN.fullmatch(by) else b'"%s"' % by)
    return block % (addresses, proto, host) + b"Forwarded: %s\r\n" % elements


def _node(address: str) -> bytes:
    """Return an address as a node of RFC 7239 section 6: IPv6 in brackets and quoted."""
    if ":" in address:
        return b'"[%s]"' % address.encode()
    return address.encode() if address else b"unknown"
