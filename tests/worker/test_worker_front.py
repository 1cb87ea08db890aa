"""Which certificate a listener's TLS meets a client with, in memory."""

from __future__ import annotations

import contextlib
import os
import resource
import ssl
from collections.abc import Iterator
from functools import cache
from typing import Literal

import pytest

from gateway.config.snapshot import ListenerTls, TlsCertificate
from gateway.openssl import load_pair
from gateway.tls import TICKET_KEYS_LAST, TURN_AGAIN, Front
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


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Leave the process no descriptor to open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.dup(0)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 16, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        for each in taken:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


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


def test_a_turn_without_descriptors_leaves_what_was_and_is_made_up_for() -> None:
    mine = front(SITE)
    first = meet(mine)
    late = TICKET_KEYS_LAST + 1.0
    with no_descriptors():
        mine.turn(late)
    again = meet(mine, session=first.session)
    assert again.session_reused
    assert served(again) == der(SITE)
    mine.turn(late + TURN_AGAIN / 2)
    assert meet(mine, session=again.session).session_reused
    mine.turn(late + TURN_AGAIN + 1.0)
    assert not meet(mine, session=again.session).session_reused


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_what_cannot_be_served_now_is_not_taken_for_served(version: Literal["1.2", "1.3"]) -> None:
    mine = front(SITE)
    renewed = ListenerTls(certificates=(OTHER, RSA), min_version=version)
    with no_descriptors(), pytest.raises(ValueError, match="too many open files"):
        mine.serve(renewed)
    assert served(meet(mine)) == der(SITE)
    mine.serve(renewed)
    assert served(meet(mine, "b.example")) == der(OTHER)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("left", [1, 2, 3])
def test_what_fails_halfway_serves_on_as_before(
    monkeypatch: pytest.MonkeyPatch, version: Literal["1.2", "1.3"], left: int
) -> None:
    """Of four loadings, two for contexts of their own and two for the listener's."""
    mine = front(SITE)
    new = AUTHORITY.make("b.example", key=rsa_key(2048)).read()
    renewed = ListenerTls(certificates=(OTHER, new), min_version=version)
    calls = []

    def load(context: ssl.SSLContext, key: bytes, chain: bytes) -> None:
        calls.append(key)
        if len(calls) > left:
            raise ValueError("no more")
        load_pair(context, key, chain)

    monkeypatch.setattr("gateway.tls.load_pair", load)
    with pytest.raises(ValueError, match="no more"):
        mine.serve(renewed)
    monkeypatch.setattr("gateway.tls.load_pair", load_pair)
    assert mine.tls.certificates == (SITE,)
    assert served(meet(mine)) == der(SITE)
    mine.serve(renewed)
    assert mine.tls == renewed
    assert served(meet(mine, "b.example", version=V13)) in {der(OTHER), der(new)}


@pytest.mark.parametrize("authorities", [SITE.key, b"", b"-----BEGIN CERTIFICATE-----\nQUJD\n"])
def test_authorities_that_are_none_are_refused_each_time_and_nothing_is_another(
    authorities: bytes,
) -> None:
    tls = ListenerTls(certificates=(SITE,))
    mine = front(SITE)
    for _ in range(2):
        with pytest.raises(ValueError, match="authorities"):
            mine.serve(tls, authorities)
    with pytest.raises(ValueError, match="authorities"):
        Front(tls, authorities)
    mine.turn(TICKET_KEYS_LAST + 1.0)
    assert served(meet(mine)) == der(SITE)
