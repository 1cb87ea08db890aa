"""Addresses, hosts and paths as the configuration writes them. Pure: nothing is resolved.

Each parser returns the canonical form, or raises ``ValueError`` with what was found and what is
expected. A URL that carries a password is refused without being quoted.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from dataclasses import dataclass
from typing import Literal

from gateway.config.scalars import shown
from gateway.wire.target import TargetError, prefix_path

# RFC 3986 section 3.2.2 with RFC 1123 labels; underscores occur in names of compose services.
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>.*)")
_AUTHORITY = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>[0-9]{1,5}))?")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_PATH = re.compile(r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")

#: IDNA 2003 (the standard library's) and browsers disagree on these (RFC 5892 section 2.6).
_DEVIATIONS = frozenset("ßς\u200c\u200d")

_MAX_NAME = 253
_MAX_PORT = 65_535
#: What is left of an Unix socket's address after its terminating NUL (Linux, macOS: 104).
_MAX_SOCKET_PATH = 103


@dataclass(frozen=True, slots=True)
class EndpointAddress:
    """One endpoint's URL, taken apart. ``url`` is canonical: lower case, no trailing slash."""

    url: str
    scheme: Literal["http", "https"]
    host: str
    port: int

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """Where something listens: a host and port, or a Unix socket's path (then port is 0)."""

    host: str
    port: int
    unix: str = ""

    @property
    def local(self) -> bool:
        """Whether only this machine can connect to it."""
        if self.unix or self.host == "localhost":
            return True
        return ipaddress.ip_address(self.host).is_loopback

    def overlaps(self, other: SocketAddress) -> bool:
        """Whether a connection could reach both: sockets that share ports bind without a word."""
        if self.unix or other.unix:
            return self.unix == other.unix
        if self.port != other.port:
            return False
        hosts = {self.host, other.host}
        named = "localhost" in hosts and self.local and other.local
        return len(hosts) == 1 or named or bool(hosts & {"0.0.0.0", "::"})  # noqa: S104 - compared

    def __str__(self) -> str:
        if self.unix:
            return f"unix:{self.unix}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_host(text: str) -> str:
    """Return a host in lower case and as its A-labels (``xn--``); an address in its short form.

    IPv6 comes with or without brackets and leaves without. Raises ValueError for anything else.
    """
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if bare[:1].isdigit() or ":" in bare:  # a name is told apart without an exception's cost
        with contextlib.suppress(ValueError):
            return str(ipaddress.ip_address(bare))
    if _DEVIATIONS.intersection(text):
        raise ValueError(f"{shown(text)} has letters that are read in two ways, expected xn-- form")
    name = text.lower().removesuffix(".")
    if not name.isascii():
        try:
            name = name.encode("idna").decode("ascii")
        except UnicodeError:
            raise ValueError(f"{shown(text)} is not a host name") from None
    digits = name.rpartition(".")[2].isdigit()  # would be read as a broken IPv4 address
    if digits or len(name) > _MAX_NAME or _NAME.fullmatch(name) is None:
        raise ValueError(f"{shown(text)} is not a host name or an IP address")
    return name


def parse_origin(value: str) -> str:
    """Return an origin as browsers serialize it: a scheme, a host, a port that is not the usual.

    ``*`` is any origin, ``https://*.example.org`` any name below a domain. Raises ValueError for a
    path, for ``null`` (whoever is in a sandbox has that origin), and for a wildcard anywhere else
    or over a whole top-level domain.
    """
    expected = "https://app.example, https://*.example.org or *"
    if value == "*":
        return value
    scheme, mark, authority = value.partition("://")
    if not mark or _SCHEME.fullmatch(scheme.lower()) is None:
        raise ValueError(f"{shown(value)} is not an origin, expected {expected}")
    name, port = authority, ""
    if not authority.endswith("]") and ":" in authority:
        name, _, port = authority.rpartition(":")
    wildcard = name.startswith("*.")
    bare = name[2:] if wildcard else name
    try:
        host = parse_host(bare)
        number = int(port) if port.isascii() and port.isdigit() else -1 if port else 0
    except ValueError:
        raise ValueError(f"{shown(value)} is not an origin, expected {expected}") from None
    if wildcard and (":" in host or host.replace(".", "").isdigit() or "." not in host):
        raise ValueError(f"{shown(value)} is too wide a wildcard, expected {expected}")
    if (":" in authority and not port and not authority.endswith("]")) or not 0 <= number < 65_536:
        raise ValueError(f"{shown(value)} has no right port, expected {expected}")
    host = f"[{host}]" if ":" in host else host
    usual = {"http": 80, "https": 443}.get(scheme.lower(), 0)
    shown_port = "" if number in {0, usual} else f":{number}"
    return f"{scheme.lower()}://{'*.' if wildcard else ''}{host}{shown_port}"


def parse_route_host(value: str) -> str:
    """Return a route's host, canonical: exact, or with ``*.`` in front.

    Raises ValueError for a port, a scheme, or a wildcard anywhere else.
    """
    expected = "a host such as blkout.example or *.blkout.example"
    wildcard = value.startswith("*.")
    name = value[2:] if wildcard else value
    if "*" in name:
        raise ValueError(f"{shown(value)} has a wildcard inside, expected {expected}")
    try:
        host = parse_host(name)
    except ValueError as error:
        raise ValueError(f"{error}, expected {expected} (no scheme, no port)") from None
    if wildcard and (":" in host or host.replace(".", "").isdigit()):
        raise ValueError(f"{shown(value)} is a wildcard over an address, expected {expected}")
    if ":" in host:  # in brackets, as a request's Host has it (``valid_host``)
        return f"[{host}]"
    return f"*.{host}" if wildcard else host


def _port(text: str | None, default: int) -> int:
    """Return a port, or the default where none is written. Raises ValueError out of range."""
    if text is None:
        return default
    port = int(text)
    if not 1 <= port <= _MAX_PORT:
        raise ValueError(f"port {port} does not exist, expected 1 to {_MAX_PORT}")
    return port


def parse_endpoint(value: str) -> EndpointAddress:
    """Return an endpoint's parts from ``http://host:port`` or ``https://host``.

    Raises ValueError for another scheme, a path, a query, or credentials (not quoted then).
    """
    expected = "a URL such as http://127.0.0.1:3101 or https://api.internal"
    found = _URL.fullmatch(value)
    if found is None:
        what = "a URL with credentials" if "@" in value else shown(value)
        raise ValueError(f"{what} is not an endpoint, expected {expected}")
    scheme = found["scheme"].lower()
    authority = found["authority"]
    if "@" in authority:
        raise ValueError(f"credentials may not stand in an endpoint's URL, expected {expected}")
    if scheme not in {"http", "https"}:
        raise ValueError(f"scheme {shown(found['scheme'])} is not spoken, expected {expected}")
    if found["rest"] not in {"", "/"}:
        raise ValueError(
            f"an endpoint has no path or query of its own (found {shown(found['rest'])}), "
            f"expected {expected}"
        )
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None or not parts["host"]:
        raise ValueError(f"{shown(value)} has no host, expected {expected}")
    host = parse_host(parts["host"])
    if ":" in host and not parts["host"].startswith("["):
        raise ValueError(f"{shown(value)} is an IPv6 address without brackets, expected {expected}")
    default = 443 if scheme == "https" else 80
    port = _port(parts["port"], default)
    shown_host = f"[{host}]" if ":" in host else host
    suffix = "" if port == default else f":{port}"
    exact: Literal["http", "https"] = "https" if scheme == "https" else "http"
    return EndpointAddress(f"{exact}://{shown_host}{suffix}", exact, host, port)


def parse_listen(value: str) -> SocketAddress:
    """Return a listening address from ``0.0.0.0:8080`` or ``[::]:8080``.

    Names other than ``localhost`` are refused: they may resolve to something else tomorrow.
    Raises ValueError.
    """
    expected = "an address and port such as 0.0.0.0:8080 or [::]:8080"
    parts = _AUTHORITY.fullmatch(value)
    if parts is None or parts["port"] is None or not parts["host"]:
        raise ValueError(f"{shown(value)} is not a listening address, expected {expected}")
    host = parts["host"].lower()
    if host != "localhost":
        try:
            host = str(ipaddress.ip_address(host.strip("[]")))
        except ValueError:
            raise ValueError(
                f"{shown(value)} is not a listening address, expected {expected}"
            ) from None
    return SocketAddress(host, _port(parts["port"], 0))


def parse_admin_address(value: str) -> SocketAddress:
    """Return the admin API's address: ``127.0.0.1:9090`` or ``unix:/run/gateway/admin.sock``.

    Raises ValueError.
    """
    if not value.startswith("unix:"):
        try:
            return parse_listen(value)
        except ValueError as error:
            raise ValueError(f"{error}, or unix:/path/to/socket") from None
    path = value.removeprefix("unix:")
    if not path or "\0" in path or len(path.encode()) > _MAX_SOCKET_PATH:
        raise ValueError(
            f"{shown(value)} is not a socket's path, expected unix: and a path of at most "
            f"{_MAX_SOCKET_PATH} octets"
        )
    return SocketAddress("", 0, path)


def parse_network(value: str) -> str:
    """Return a network in CIDR form from ``10.0.0.0/8`` or a single address.

    Raises ValueError, with the network that was probably meant where host bits are set.
    """
    expected = "a network such as 10.0.0.0/8, 192.0.2.1 or fd00::/8"
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError(f"{shown(value)} is not a network, expected {expected}") from None
    raise ValueError(f"{shown(value)} has bits set beyond its prefix, expected {meant}")


def _normal(escape: re.Match[str]) -> str:
    """Decode an escaped unreserved octet; write any other in upper case (RFC 3986, 6.2.2)."""
    octet = chr(int(escape[0][1:], 16))
    return octet if octet in _UNRESERVED else escape[0].upper()


def parse_path(value: str) -> str:
    """Return a path prefix with unreserved octets decoded, as requests are matched.

    Raises ValueError for a query, a blank, or a dot segment, plain or encoded: no request could
    match one.
    """
    expected = "a path such as /api/ivor/"
    if not value.startswith("/"):
        raise ValueError(f"{shown(value)} does not begin with a slash, expected {expected}")
    if "?" in value or "#" in value:
        raise ValueError(f"{shown(value)} has a query or fragment, expected {expected}")
    if _PATH.fullmatch(value) is None:
        raise ValueError(
            f"{shown(value)} has characters that a path cannot have, "
            f"expected {expected} (others percent-encoded)"
        )
    path = _ESCAPE.sub(_normal, value)
    if any(segment in {".", ".."} for segment in path.split("/")):
        raise ValueError(f"{shown(value)} has a dot segment, which no request can have")
    return path


def parse_route_path(value: str) -> str:
    """Return a route's path prefix, as requests are matched with it.

    Raises ValueError as ``parse_path`` does, and for a path that two readers take differently: the
    router refuses requests for it.
    """
    path = parse_path(value)
    try:
        return prefix_path(path.encode()).decode()
    except TargetError:
        raise ValueError(
            f"{shown(value)} can be read in two ways (//, ;, %2F, %3F and the like), "
            "expected a path such as /api/ivor/"
        ) from None


def parse_path_pattern(value: str) -> str:
    """Return a path pattern: a path, or a prefix and ``*`` at its end. Raises ValueError."""
    prefix = value.removesuffix("*")
    if "*" in prefix:
        raise ValueError(f"{shown(value)} has a * inside, expected one at the end or none")
    return parse_path(prefix) + value[len(prefix) :]
