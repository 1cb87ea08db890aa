"""Where integration checks go in, and what they show there."""

from __future__ import annotations

import pytest

from gateway.config.snapshot import Cohort, Listener, ListenerTls
from gateway.health.door import FIELD, TOKEN_LASTS, Door, origin_of
from gateway.policy.override import probed_service, verify, verify_probe
from gateway.proxy.serving import CohortRun

SECRET = b"0123456789012345678901"


@pytest.mark.parametrize(
    ("addresses", "origin"),
    [
        (["0.0.0.0:8080"], "http://127.0.0.1:8080"),
        (["[::]:8080"], "http://[::1]:8080"),
        (["192.0.2.1:80", "0.0.0.0:1"], "http://192.0.2.1:80"),
        (["localhost:8080"], "http://localhost:8080"),
        ([], ""),
    ],
)
def test_the_way_in(addresses: list[str], origin: str) -> None:
    assert origin_of([Listener(address=each) for each in addresses]) == origin


def test_a_listener_that_only_redirects_is_passed_over() -> None:
    listeners = [
        Listener(address="0.0.0.0:80", redirect_to_https=443),
        Listener(address="0.0.0.0:8080"),
    ]
    assert origin_of(listeners) == "http://127.0.0.1:8080"
    assert origin_of(listeners[:1]) == "http://127.0.0.1:80"


def test_tls_is_asked_where_nothing_plain_serves() -> None:
    listeners = [
        Listener(address="0.0.0.0:80", redirect_to_https=443),
        Listener(address="0.0.0.0:443", tls=ListenerTls(certificates=())),
    ]
    assert origin_of(listeners) == "https://127.0.0.1:443"
    assert origin_of([*listeners, Listener(address="0.0.0.0:8080")]) == "http://127.0.0.1:8080"


def test_a_token_forces_its_color_for_a_moment() -> None:
    door = Door("http://x", SECRET, lambda: 1000.0)
    token = door.fields("green")[FIELD].encode()
    assert verify_probe(SECRET, token, now=1000.0) == "green"
    assert verify_probe(SECRET, token, now=1000.0 + TOKEN_LASTS) is None
    assert verify_probe(b"another secret 1234567", token, now=1000.0) is None
    assert verify_probe(None, token, now=1000.0) is None
    assert verify_probe(SECRET, token.replace(b"green", b"blue"), now=1000.0) is None
    assert verify_probe(SECRET, token + b"x" * 100, now=1000.0) is None
    assert probed_service(token) == ""
    door = Door("http://x", SECRET, lambda: 1000.0, "s" * 63)
    named = door.fields("green")[FIELD].encode()
    assert verify_probe(SECRET, named, now=1000.0) == "green"
    assert probed_service(named) == "s" * 63
    assert verify_probe(SECRET, named.replace(b"ssss", b"sss"), now=1000.0) is None
    # Neither kind of token is ever taken for the other.
    assert verify(SECRET, token, host="a", release="", now=1000.0) is None
    assert verify_probe(SECRET, b"1.green.2000.x", now=1000.0) is None


def test_nobody_shows_the_secret() -> None:
    door = Door("http://x", SECRET, lambda: 0.0)
    run = CohortRun(b"c", None, 1, None, None, SECRET)
    for thing in (door, Cohort(probe_secret=SECRET), run):
        assert SECRET.decode() not in repr(thing)
