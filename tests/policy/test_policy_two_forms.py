"""Compiled and plain are one behaviour: the same calls give the same answers or the same errors.

Each hot module's source is run a second time, as plain Python beside what is imported. Where
nothing is compiled this compares plain Python with itself and can only pass.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import hot
from gateway.config.snapshot import SecurityProfile

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

MINE = (
    "gateway.wire.target",
    "gateway.policy.route",
    "gateway.policy.cohort",
    "gateway.policy.forwarded",
    "gateway.policy.trace",
    "gateway.policy.balance",
    "gateway.policy.security",
)


@cache
def _forms(name: str) -> tuple[ModuleType, ModuleType]:
    """Return a module as it is imported and as its source alone."""
    imported = importlib.import_module(name)
    package = Path(hot.__file__).parent
    source = package.joinpath(*name.split(".")[1:]).with_suffix(".py")
    spec = importlib.util.spec_from_file_location(f"plain_{source.stem}", source)
    assert spec is not None
    assert spec.loader is not None
    plain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plain)
    return imported, plain


def _outcome(call: Callable[[], object]) -> tuple[str, object]:
    try:
        return "returns", call()
    except ValueError as error:
        return type(error).__name__, str(error)


def _same(module: str, use: Callable[[Any], object]) -> None:
    imported, plain = _forms(module)
    assert _outcome(lambda: use(imported)) == _outcome(lambda: use(plain))


@pytest.mark.parametrize("name", MINE)
def test_the_module_is_one_of_those_that_are_compiled(name: str) -> None:
    assert name in hot.HOT_MODULES
    assert str(_forms(name)[1].__file__).endswith(".py")


_PATHS = st.one_of(
    st.binary(max_size=24),
    st.text("/.;%2fF5cC3eE\\?#aZ\x7f", max_size=24).map(lambda text: text.encode()),
).map(lambda rest: b"/" + rest)
_HOSTS = st.binary(max_size=12) | st.text("aA.:[]019-_%@ ", max_size=24).map(str.encode)


@settings(max_examples=300)
@given(_PATHS)
def test_paths(path: bytes) -> None:
    _same("gateway.wire.target", lambda m: m.match_path(path))
    _same("gateway.wire.target", lambda m: m.match_path(path[1:]))
    _same("gateway.wire.target", lambda m: m.lenient_path(path))
    _same("gateway.wire.target", lambda m: m.split_absolute(b"http:/" + path))


@settings(max_examples=300)
@given(_HOSTS, st.sampled_from(["", "0", "65535", "65536", "99999", "18446744073709551621"]))
def test_hosts(host: bytes, port: str) -> None:
    _same("gateway.wire.target", lambda m: m.valid_host(host))
    _same("gateway.wire.target", lambda m: m.valid_host(host + b":" + port.encode()))


@given(
    st.lists(st.tuples(st.sampled_from([b"", b"a", b"b.a", b"*.a"]), _PATHS), max_size=6),
    st.sampled_from([b"", b"a", b"b.a", b"c.b.a", b".a"]),
    _PATHS,
)
def test_routes(routes: list[tuple[bytes, bytes]], host: bytes, path: bytes) -> None:
    def use(module: Any) -> object:
        router = module.Router()
        added = [_outcome(lambda r=r: router.add(*r, r)) for r in routes]  # type: ignore[misc]
        return added, len(router), _outcome(lambda: router.lookup(host, path))

    _same("gateway.policy.route", use)


_FIELDS = st.binary(max_size=40) | st.lists(
    st.sampled_from([b"c", b"d", b"=", b";", b" ", b"\t", b"AAECAwQFBgcICQoLDA0ODw", b"A", b"w"]),
    max_size=12,
).map(b"".join)


@settings(max_examples=300)
@given(_FIELDS)
def test_cookies(field: bytes) -> None:
    _same("gateway.policy.cohort", lambda m: m.cohort_cookie(field, b"c"))
    _same("gateway.policy.cohort", lambda m: m.cookie_value(field, b"c"))
    _same("gateway.policy.cohort", lambda m: m.strip_cookies(field, (b"c", b"d")))


@given(st.binary(max_size=80), st.binary(max_size=140), st.text(max_size=20))
def test_cohorts(salt: bytes, key: bytes, address: str) -> None:
    _same("gateway.policy.cohort", lambda m: m.Splitter(salt).assign(key))
    _same("gateway.policy.cohort", lambda m: m.cohort_key(None, b"c", key, address))
    _same("gateway.policy.cohort", lambda m: m.cohort_key(key, b"c", None, address))


@given(
    st.binary(max_size=60) | st.text("0123456789abcdef-", min_size=55, max_size=56).map(str.encode)
)
def test_traces(value: bytes) -> None:
    _same("gateway.policy.trace", lambda m: m.continue_or_begin(value, b"12345678" * 6))
    _same("gateway.policy.trace", lambda m: m.valid_request_id(value))


@given(st.integers(-1, 5000), st.integers(0, 2**32 - 1), st.lists(st.integers(0, 2**32 - 1)))
def test_balance(count: int, draw: int, seeds: list[int]) -> None:
    _same("gateway.policy.balance", lambda m: m.pick_two(count, draw))
    _same("gateway.policy.balance", lambda m: m.power_of_two(seeds or [0], draw))
    _same("gateway.policy.balance", lambda m: m.by_hash(draw, seeds))
    _same("gateway.policy.balance", lambda m: m.seed(str(draw).encode()))
    _same("gateway.policy.balance", lambda m: m.next_in_turn(count, draw))


@given(st.integers(0, 2**63))
def test_security_fields(seen: int) -> None:
    profile = SecurityProfile(
        name="p", fields=(("Server", "a"), ("Date", "b"), ("X", "c")), tls_fields=(("Via", "d"),)
    )
    _same("gateway.policy.security", lambda m: m.SecurityFields(profile, True).block(seen))
    _same("gateway.policy.security", lambda m: m.SecurityFields(profile, False).names)


@given(st.binary(max_size=60), st.text('for=;,"\\ 10.[:]', max_size=40))
def test_forwarded(xff: bytes, value: str) -> None:
    def use(module: Any) -> object:
        trust = module.ProxyTrust(["10.0.0.0/8", "::/0"])
        return trust.chain("10.0.0.1", xff), trust.chain("10.0.0.1", None, value.encode())

    _same("gateway.policy.forwarded", use)
    _same("gateway.policy.forwarded", lambda m: m.forwarded_for(xff))
