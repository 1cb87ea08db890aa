"""TLS contexts from certificates: what clients of the public side and of the admin API meet.

TLS 1.2 and 1.3; forward secrecy and authenticated encryption only (RFC 9325 section 4.2); no
renegotiation, no compression. ``http/1.1`` is chosen by ALPN.

A ``Front`` lives as long as its listener: certificates are replaced in it, connections that are
under way keep theirs. It is what sessions are resumed by (OpenSSL keeps the keys of tickets with
the context that a connection began in), so tickets outlive a renewal. Python offers no way to give
two processes the same keys: a ticket is good at the worker that wrote it.

That context has the default's certificates itself: to hand a connection over to another context
takes a copy of all that a context has, so it is done for other names only.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

from gateway.openssl import load_pair

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.config.snapshot import ListenerTls, TlsCertificate

#: For TLS 1.2; 1.3 has none that is weak.
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
PROTOCOLS: Final = ("http/1.1",)

#: Seconds after which keys of tickets are replaced, by a new context: who records TLS 1.2 and later
#: steals a key reads no more than that (RFC 9325 section 4.1, "resumption").
TICKET_KEYS_LAST: Final = 12 * 3600.0

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def _bare(min_version: str, client_ca: bytes | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[min_version]
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(list(PROTOCOLS))
    context.options |= (
        ssl.OP_NO_COMPRESSION
        | ssl.OP_NO_RENEGOTIATION
        | ssl.OP_CIPHER_SERVER_PREFERENCE
        | ssl.OP_SINGLE_ECDH_USE
    )
    # Each costs a tenth of a handshake; a resumed session brings the next one.
    context.num_tickets = 1
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=client_ca.decode("ascii", "ignore"))
    return context


def _key_of(name: str) -> str:
    return name.lower().removesuffix(".")


class Front:
    """One listener's TLS. ``context`` is what a connection begins with."""

    def __init__(
        self,
        tls: ListenerTls,
        client_ca: bytes | None = None,
        now: float = 0.0,
        *,
        curve: str | None = None,
    ) -> None:
        """With ``curve`` (OpenSSL's name of it) keys are exchanged over that one alone.

        Python can name one or leave them all, with finite fields among them that cost a hundred
        times as much: where nobody looks at hellos first (``gateway.wire.hello``), it is one.
        """
        self._tls = tls
        self._curve = curve
        self._client_ca = client_ca
        self._exact: dict[str, ssl.SSLContext] = {}
        self._wild: dict[str, ssl.SSLContext] = {}
        self._default: ssl.SSLContext
        self._groups = self._take(tls)
        self._begin(now)

    def __repr__(self) -> str:
        names = [*self._exact, *(f"*.{name}" for name in self._wild)]
        return f"Front({', '.join(names[:8])})"

    @property
    def tls(self) -> ListenerTls:
        """What it serves with."""
        return self._tls

    def serve(self, tls: ListenerTls, client_ca: bytes | None = None, now: float = 0.0) -> None:
        """Use other certificates from the next handshake on.

        Raises ValueError, and goes on with those it has, where OpenSSL does not take one.
        """
        if tls == self._tls and client_ca == self._client_ca:
            return
        again = (tls.min_version, client_ca) != (self._tls.min_version, self._client_ca)
        was, self._client_ca = self._client_ca, client_ca
        try:
            self._groups = self._take(tls)
        except ValueError:
            self._client_ca = was
            raise
        self._tls = tls
        if again:
            self._begin(now)
        else:
            self._equip()

    def turn(self, now: float) -> None:
        """Replace the keys of tickets where they are old. ``now`` is monotonic, in seconds."""
        if now - self._born > TICKET_KEYS_LAST:
            self._begin(now)

    def _begin(self, now: float) -> None:
        self.context = _bare(self._tls.min_version, self._client_ca)
        if self._curve is not None:
            self.context.set_ecdh_curve(self._curve)
        self._born = now
        self._kinds: frozenset[str] = frozenset()
        self._equip()

    def _equip(self) -> None:
        """Give the listener's context what is the default's; have it ask about names if it must."""
        first = self._groups[0]
        kinds = frozenset(each.kind for each in first)
        # One kind of key takes the place of the same kind's before it. What is in a context for
        # another kind cannot be taken out again: then every connection is handed over.
        self._whole = self._kinds <= kinds
        if self._whole:
            for certificate in first:
                load_pair(self.context, certificate.key, certificate.chain)
            self._kinds = kinds
        asks = len(self._groups) > 1 or not self._whole
        self.context.sni_callback = self._choose if asks else None

    def _choose(
        self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext
    ) -> int | None:
        """Take the certificate for the name that a client asks for (RFC 6066 section 3).

        It is asked for one without a name, too.
        """
        del context
        found = self._for(name)
        if found is not self._default or not self._whole:
            connection.context = found
        return None

    def _for(self, name: str | None) -> ssl.SSLContext:
        if name is None:
            return self._default
        key = _key_of(name)
        found = self._exact.get(key)
        if found is None:
            found = self._wild.get(key.partition(".")[2])
        return self._default if found is None else found

    def _take(self, tls: ListenerTls) -> list[list[TlsCertificate]]:
        if not tls.certificates:
            raise ValueError("no certificate was read for this listener")
        exact: dict[str, ssl.SSLContext] = {}
        wild: dict[str, ssl.SSLContext] = {}
        contexts: list[ssl.SSLContext] = []
        groups = _groups(tls.certificates)
        for group in groups:
            context = _bare(tls.min_version, self._client_ca)
            contexts.append(context)
            for certificate in group:
                try:
                    load_pair(context, certificate.key, certificate.chain)
                except ValueError as error:
                    raise ValueError(f"{certificate.place}: {error}") from None
            for name in group[0].names:
                place, key = (wild, name[2:]) if name.startswith("*.") else (exact, name)
                place.setdefault(key, context)
        self._exact, self._wild, self._default = exact, wild, contexts[0]
        return groups


def _groups(certificates: Iterable[TlsCertificate]) -> list[list[TlsCertificate]]:
    """Put certificates of different kinds for the same names together: the client chooses."""
    groups: dict[frozenset[str], list[list[TlsCertificate]]] = {}
    order: list[list[TlsCertificate]] = []
    for certificate in certificates:
        known = groups.setdefault(frozenset(certificate.names), [])
        for group in known:
            if certificate.kind not in {each.kind for each in group}:
                group.append(certificate)
                break
        else:
            known.append([certificate])
            order.append(known[-1])
    return order
