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

import logging
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.openssl import load_authorities, load_pair

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.config.snapshot import ListenerTls, TlsCertificate

log = logging.getLogger("gateway.tls")

#: For TLS 1.2; 1.3 has none that is weak.
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
PROTOCOLS: Final = ("http/1.1",)

#: Seconds after which keys of tickets are replaced, by a new context: who records TLS 1.2 and later
#: steals a key reads no more than that (RFC 9325 section 4.1, "resumption").
TICKET_KEYS_LAST: Final = 12 * 3600.0
#: Seconds until that is tried again where it has failed.
TURN_AGAIN: Final = 60.0

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
        load_authorities(context, client_ca)
    return context


def _key_of(name: str) -> str:
    return name.lower().removesuffix(".")


@dataclass(frozen=True, slots=True)
class _Taken:
    """Contexts by the names that they have certificates for, and what they were made of."""

    groups: list[list[TlsCertificate]]
    exact: dict[str, ssl.SSLContext]
    wild: dict[str, ssl.SSLContext]
    default: ssl.SSLContext


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
        Raises ValueError where OpenSSL does not take a certificate or the authorities.
        """
        self._tls = tls
        self._curve = curve
        self._client_ca = client_ca
        self._taken = _take(tls, client_ca)
        self._turn_at: float
        self._begin(now)

    def __repr__(self) -> str:
        names = [*self._taken.exact, *(f"*.{name}" for name in self._taken.wild)]
        return f"Front({', '.join(names[:8])})"

    @property
    def tls(self) -> ListenerTls:
        """What it serves with."""
        return self._tls

    def serve(self, tls: ListenerTls, client_ca: bytes | None = None, now: float = 0.0) -> None:
        """Use other certificates from the next handshake on.

        Raises ValueError, and goes on with what it has, where OpenSSL does not take it.
        """
        if tls == self._tls and client_ca == self._client_ca:
            return
        taken = _take(tls, client_ca)
        was = self._tls, self._client_ca, self._taken
        again = (tls.min_version, client_ca) != (self._tls.min_version, self._client_ca)
        self._tls, self._client_ca, self._taken = tls, client_ca, taken
        try:
            if again:
                self._begin(now)
            else:
                self._equip(self.context, self._kinds)
        except ValueError:
            self._tls, self._client_ca, self._taken = was
            if not again:
                # Half of the new ones may be in the context: every connection is handed over.
                self._whole = False
                self.context.sni_callback = self._choose
            raise

    def turn(self, now: float) -> None:
        """Replace the keys of tickets where they are old. ``now`` is monotonic, in seconds.

        Raises nothing: where that cannot be done now (no descriptor is free) the old ones go on,
        and it is tried again ``TURN_AGAIN`` later.
        """
        if now <= self._turn_at:
            return
        try:
            self._begin(now)
        except ValueError as error:
            self._turn_at = now + TURN_AGAIN
            log.warning("%r: the keys of tickets are not replaced yet: %s", self, error)

    def _begin(self, now: float) -> None:
        """Go over to a context of its own, once it has all that it needs. Raises ValueError."""
        context = _bare(self._tls.min_version, self._client_ca)
        if self._curve is not None:
            context.set_ecdh_curve(self._curve)
        self._equip(context, frozenset())
        self.context = context
        self._turn_at = now + TICKET_KEYS_LAST

    def _equip(self, context: ssl.SSLContext, had: frozenset[str]) -> None:
        """Give a context what is the default's; have it ask about names if it must.

        ``had`` are the kinds of keys that are in it. Raises ValueError.
        """
        first = self._taken.groups[0]
        kinds = frozenset(each.kind for each in first)
        # One kind of key takes the place of the same kind's before it. What is in a context for
        # another kind cannot be taken out again: then every connection is handed over.
        whole = had <= kinds
        if whole:
            for certificate in first:
                load_pair(context, certificate.key, certificate.chain)
        self._kinds = kinds if whole else had
        self._whole = whole
        asks = len(self._taken.groups) > 1 or not whole
        context.sni_callback = self._choose if asks else None

    def _choose(
        self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext
    ) -> int | None:
        """Take the certificate for the name that a client asks for (RFC 6066 section 3).

        It is asked for one without a name, too.
        """
        del context
        found = self._for(name)
        if found is not self._taken.default or not self._whole:
            connection.context = found
        return None

    def _for(self, name: str | None) -> ssl.SSLContext:
        taken = self._taken
        if name is None:
            return taken.default
        key = _key_of(name)
        found = taken.exact.get(key)
        if found is None:
            found = taken.wild.get(key.partition(".")[2])
        return taken.default if found is None else found


def _take(tls: ListenerTls, client_ca: bytes | None) -> _Taken:
    """Make a context for each group of certificates. Raises ValueError."""
    if not tls.certificates:
        raise ValueError("no certificate was read for this listener")
    exact: dict[str, ssl.SSLContext] = {}
    wild: dict[str, ssl.SSLContext] = {}
    contexts: list[ssl.SSLContext] = []
    groups = _groups(tls.certificates)
    for group in groups:
        context = _bare(tls.min_version, client_ca)
        contexts.append(context)
        for certificate in group:
            try:
                load_pair(context, certificate.key, certificate.chain)
            except ValueError as error:
                raise ValueError(f"{certificate.place}: {error}") from None
        for name in group[0].names:
            place, key = (wild, name[2:]) if name.startswith("*.") else (exact, name)
            place.setdefault(key, context)
    return _Taken(groups, exact, wild, contexts[0])


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
