"""CORS rules: which origins match, and what each is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.snapshot import Cors
from gateway.policy.cors import CorsRules

RULES = CorsRules(
    Cors(
        name="app",
        origins=("https://app.example", "https://*.example.org", "http://*.test.example:8080"),
        headers=("Content-Type", "X-A"),
        expose=("X-Total",),
        credentials=True,
        methods=("GET", "PUT"),
        max_age=60,
    )
)
ANY = CorsRules(Cors(name="any", origins=("*",)))


@pytest.mark.parametrize(
    "origin",
    [
        b"https://app.example",
        b"https://a.example.org",
        b"https://a.b-c.example.org",
        b"http://x.test.example:8080",
    ],
)
def test_an_origin_that_matches_is_named(origin: bytes) -> None:
    assert RULES.answer(origin) == (
        b"Access-Control-Allow-Origin: " + origin + b"\r\n"
        b"Access-Control-Allow-Credentials: true\r\n"
        b"Access-Control-Expose-Headers: X-Total\r\n"
        b"Vary: Origin\r\n"
    )


@pytest.mark.parametrize(
    "origin",
    [
        b"null",
        b"",
        b"https://app.example.evil",
        b"https://app.example:444",
        b"http://app.example",
        b"https://APP.example",
        b"https://example.org",
        b"https://.example.org",
        b"https://a..example.org",
        b"https://evilexample.org",
        b"https://evil.com/.example.org",
        b"https://evil.com:1.example.org",
        b"https://a@b.example.org",
        b"https://evil.com#.example.org",
        b"https://evil.com\x00.example.org",
        b"https://evil.com .example.org",
        b"https://a.example.org:8443",
        b"http://x.test.example",
        b"https://" + b"a" * 400 + b".example.org",
        b"https://app.example https://app.example",
        b"https://*.example.org",
    ],
)
def test_another_origin_is_told_nothing_but_that_it_varies(origin: bytes) -> None:
    assert not RULES.allows(origin)
    assert RULES.answer(origin) == b"Vary: Origin\r\n"
    assert RULES.preflight(origin, private=True) == RULES.vary_preflight
    assert b"Access-Control-Allow" not in RULES.vary_preflight


@given(st.binary(max_size=60))
def test_a_wildcard_takes_labels_and_nothing_else(middle: bytes) -> None:
    if RULES.allows(b"https://" + middle + b".example.org"):
        assert set(middle) <= set(b"abcdefghijklmnopqrstuvwxyz0123456789-_.")
        assert all(middle.split(b"."))


def test_without_an_origin_it_still_varies() -> None:
    assert RULES.answer(None) == b"Vary: Origin\r\n"


def test_everybody_is_told_the_same_and_nothing_varies() -> None:
    for origin in (b"https://a.example", b"null"):
        assert ANY.answer(origin) == b"Access-Control-Allow-Origin: *\r\n"
    assert ANY.answer(None) == b""


def test_a_preflight_is_told_all_there_is() -> None:
    assert RULES.preflight(b"https://app.example", private=True) == (
        b"Access-Control-Allow-Origin: https://app.example\r\n"
        b"Access-Control-Allow-Credentials: true\r\n"
        b"Access-Control-Allow-Methods: GET, PUT\r\n"
        b"Access-Control-Allow-Headers: Content-Type, X-A\r\n"
        b"Access-Control-Max-Age: 60\r\n"
        b"Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers\r\n"
    )


def test_a_private_network_is_reached_where_that_is_allowed_and_asked_for() -> None:
    rules = CorsRules(Cors(name="p", origins=("https://a.example",), private_network=True))
    line = b"Access-Control-Allow-Private-Network: true\r\n"
    assert line in rules.preflight(b"https://a.example", private=True)
    assert line not in rules.preflight(b"https://a.example", private=False)
    assert line not in rules.preflight(b"https://b.example", private=True)
    assert b"Access-Control-Request-Private-Network" in rules.vary_preflight
