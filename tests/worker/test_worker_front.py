"""Which certificate a listener's TLS meets a client with, in memory."""

from __future__ import annotations

import contextlib
import ssl
from functools import cache

import pytest

from gateway.config.snapshot import ListenerTls, TlsCertificate
from gateway.tls import TICKET_KEYS_LAST, Front
from tests.support.certificates import Authority, rsa_key

AUTHORITY = Authority()
SITE = AUTHORITY.make("a.example").read()
RSA = AUTHORITY.make("a.example", key=rsa_key(2048)).read()
OTHER = AUTHORITY.make("b.example").read()
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


def front(*certificates: TlsCertificate) -> Front:
    return Front(ListenerTls(certificates=certificates))


@cache  # a session is of use in the context that it was made in
def trusting(version: ssl.TLSVersion, ciphers: str) -> ssl.SSLContext:
    client = AUTHORITY.client(version)
    if ciphers:
        client.set_ciphers(ciphers)
    return client


def meet(
    front: Front,
    name: str = "a.example",
    *,
    version: ssl.TLSVersion = V13,
    ciphers: str = "",
    session: ssl.SSLSession | None = None,
) -> ssl.SSLObject:
    """Shake hands; return the client's side, with the session that it may come back with."""
    client = trusting(version, ciphers)
    ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(theirs, ours, server_hostname=name, session=session)
    answering = front.context.wrap_bio(ours, theirs, server_side=True)
    for _ in range(3):
        for each in (asking, answering):
            with contextlib.suppress(ssl.SSLWantReadError):
                each.do_handshake()
    answering.write(b"x")
    assert asking.read(1) == b"x"  # with the ticket of TLS 1.3
    return asking


def served(found: ssl.SSLObject) -> bytes | None:
    return found.getpeercert(binary_form=True)


def der(certificate: TlsCertificate) -> bytes:
    return ssl.PEM_cert_to_DER_cert(
        certificate.chain.decode().partition("-----END")[0] + "-----END CERTIFICATE-----"
    )


def test_a_name_that_is_the_defaults_needs_no_other_context() -> None:
    one = front(SITE)
    assert one.context.sni_callback is None
    assert served(meet(one)) == der(SITE)
    two = front(SITE, OTHER)
    assert served(meet(two)) == der(SITE)
    assert served(meet(two, "b.example")) == der(OTHER)


def test_certificates_come_and_go_in_one_context() -> None:
    mine = front(SITE)
    context = mine.context
    renewed = AUTHORITY.make("a.example").read()
    for now in ((renewed,), (renewed, OTHER), (OTHER, renewed), (renewed,), (SITE,)):
        mine.serve(ListenerTls(certificates=now))
        assert mine.context is context
        assert served(meet(mine, now[0].names[0])) == der(now[0])
        assert served(meet(mine, now[-1].names[0])) == der(now[-1])
    assert mine.context.sni_callback is None


@pytest.mark.parametrize("ciphers", ["ECDHE+ECDSA", "ECDHE+aRSA", "ECDHE"])
def test_a_kind_of_key_that_is_gone_is_served_no_more(ciphers: str) -> None:
    mine = front(SITE, RSA)
    for now in ((SITE,), (RSA,), (SITE, RSA)):
        mine.serve(ListenerTls(certificates=now))
        kinds = {"ECDHE+ECDSA": {"EC"}, "ECDHE+aRSA": {"RSA"}, "ECDHE": {"EC", "RSA"}}[ciphers]
        fits = [each for each in now if each.kind in kinds]
        if fits:
            found = served(meet(mine, version=V12, ciphers=ciphers))
            assert found in {der(each) for each in fits}
        else:
            with pytest.raises(ssl.SSLError):
                meet(mine, version=V12, ciphers=ciphers)


@pytest.mark.parametrize("version", [V12, V13])
def test_sessions_are_resumed_by_who_wrote_the_ticket(version: ssl.TLSVersion) -> None:
    """And by nobody else: another worker makes a full handshake of it."""
    mine, anothers = front(SITE), front(SITE)
    first = meet(mine, version=version)
    assert not first.session_reused
    assert not meet(anothers, version=version, session=first.session).session_reused
    second = meet(mine, version=version, session=first.session)
    assert second.session_reused
    mine.serve(ListenerTls(certificates=(AUTHORITY.make("a.example").read(), OTHER)))
    assert meet(mine, version=version, session=second.session).session_reused
    mine.turn(TICKET_KEYS_LAST + 1.0)
    assert not meet(mine, version=version, session=second.session).session_reused
