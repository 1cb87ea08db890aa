"""Routes: the most specific wins, on segment boundaries, at a cost that does not grow."""

from __future__ import annotations

import timeit
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.route import Router
from gateway.wire.target import TargetError

if TYPE_CHECKING:
    from collections.abc import Callable


def _router(*routes: tuple[str, str]) -> Router:
    router = Router()
    for host, path in routes:
        assert router.add(host.encode(), path.encode(), (host, path))
    return router


@pytest.mark.parametrize("path", ["/api/ivor", "/api/ivor/"])
def test_a_prefix_ends_where_a_segment_ends(path: str) -> None:
    router = _router(("", path))
    for inside in (b"/api/ivor", b"/api/ivor/", b"/api/ivor/x", b"/api/ivor/x/y/", b"/api/ivor//"):
        assert router.lookup(b"a", inside) == ("", path)
    for outside in (
        b"/",
        b"/api",
        b"/api/",
        b"/api/ivory",
        b"/api/ivo",
        b"/x/api/ivor",
        b"/API/ivor",
    ):
        assert router.lookup(b"a", outside) is None


def test_the_longest_prefix_wins_whatever_the_order_of_adding() -> None:
    routes = [("", "/"), ("", "/api/"), ("", "/api/ivor/chat/"), ("", "/api/ivor/")]
    for order in (routes, routes[::-1], sorted(routes)):
        router = _router(*order)
        assert router.lookup(b"a", b"/") == ("", "/")
        assert router.lookup(b"a", b"/apix") == ("", "/")
        assert router.lookup(b"a", b"/api/events") == ("", "/api/")
        assert router.lookup(b"a", b"/api/ivor/cha") == ("", "/api/ivor/")
        assert router.lookup(b"a", b"/api/ivor/chat") == ("", "/api/ivor/chat/")
        # Deep below a prefix whose own way goes on elsewhere.
        assert router.lookup(b"a", b"/api/ivor/x/chat") == ("", "/api/ivor/")


def test_hosts_from_exact_to_any_and_through_where_no_path_matches() -> None:
    router = _router(
        ("a.x.example", "/api/"),
        ("*.x.example", "/"),
        ("*.example", "/api/"),
        ("*.example", "/deep/"),
        ("", "/any/"),
    )
    assert router.lookup(b"a.x.example", b"/api/1") == ("a.x.example", "/api/")
    assert router.lookup(b"a.x.example", b"/other") == ("*.x.example", "/")
    assert router.lookup(b"b.x.example", b"/api/1") == ("*.x.example", "/")
    assert router.lookup(b"c.b.x.example", b"/q") == ("*.x.example", "/")
    assert router.lookup(b"x.example", b"/api/1") == ("*.example", "/api/")
    assert router.lookup(b"x.example", b"/any/1") == ("", "/any/")
    assert router.lookup(b"example", b"/api/1") is None
    assert router.lookup(b"x.example", b"/nothing") is None
    assert router.lookup(b"notx.example", b"/any") == ("", "/any/")
    assert router.lookup(b"[::1]", b"/any/x") == ("", "/any/")
    assert router.lookup(b"", b"/any/x") == ("", "/any/")


def test_a_wildcard_stands_for_at_least_one_label() -> None:
    router = _router(("*.example", "/"))
    assert router.lookup(b"a.example", b"/") == ("*.example", "/")
    assert router.lookup(b"example", b"/") is None
    assert router.lookup(b".example", b"/") is None
    assert router.lookup(b"aexample", b"/") is None


def test_the_first_of_two_equal_routes_stands() -> None:
    router = _router(("a", "/x/"))
    assert not router.add(b"a", b"/x", "second")
    assert not router.add(b"a", b"/%78/", "third")
    assert router.lookup(b"a", b"/x") == ("a", "/x/")
    assert len(router) == router.size == 1


def test_escapes_of_a_route_and_of_a_request_meet() -> None:
    router = _router(("", "/caf%c3%a9/"), ("", "/"))
    assert router.lookup(b"a", b"/caf%C3%A9/x") == ("", "/caf%c3%a9/")


@pytest.mark.parametrize(
    "path", [b"", b"api", b"/a?b", b"/../a", b"/a%", b"/a b", b"/a//", b"//", b"/a;b", b"/a%2fb"]
)
def test_a_route_that_nothing_could_match_is_refused(path: bytes) -> None:
    with pytest.raises(TargetError):
        Router().add(b"", path, "x")


def test_none_is_no_route() -> None:
    with pytest.raises(ValueError, match="None"):
        Router().add(b"", b"/", None)


@pytest.mark.parametrize(
    "path",
    [b"/admin%2Fx", b"//admin/x", b"/admin;a/x", b"/x/..;"[:2] + b"/%5Cadmin", b"/admin%3Fx"],
)
def test_two_readings_that_part_are_refused(path: bytes) -> None:
    router = _router(("", "/admin/"), ("", "/x/admin/"), ("", "/"))
    with pytest.raises(TargetError) as caught:
        router.lookup(b"a", path)
    assert caught.value.kind == "ambiguous-path"


@pytest.mark.parametrize(
    "path", [b"/api/a%2Fb", b"/api//x", b"/api/https://x", b"/api/a;v=1", b"/api/%20", b"/api/a%3F"]
)
def test_two_readings_of_one_route_pass(path: bytes) -> None:
    router = _router(("", "/admin/"), ("", "/api/"))
    assert router.lookup(b"a", path) == ("", "/api/")


def test_two_readings_without_a_route_are_none() -> None:
    assert _router(("", "/api/")).lookup(b"a", b"/x%2Fy") is None
    with pytest.raises(TargetError):
        _router(("", "/api/")).lookup(b"a", b"//api/")


_SEGMENT = st.sampled_from(["a", "b", "ab", "abc"])
_PATH = st.builds(
    lambda parts, end: "/" + "/".join(parts) + (end if parts else ""),
    st.lists(_SEGMENT, max_size=5),
    st.sampled_from(["", "/"]),
)
_LABELS = st.lists(st.sampled_from(["a", "b", "example"]), min_size=1, max_size=4).map(".".join)
_HOST = st.one_of(st.just(""), _LABELS, _LABELS.map("*.".__add__))


def _slow(routes: list[tuple[str, str]], host: str, path: str) -> object:
    """Look a route up as the documentation has it, one route after the other."""

    def rank(route: tuple[str, str]) -> tuple[int, int] | None:
        pattern, prefix = route
        if pattern.startswith("*."):
            if not host.endswith(pattern[1:]) or len(host) == len(pattern[1:]):
                return None
            level = len(pattern)
        else:
            if pattern not in {"", host}:
                return None
            level = 1000 if pattern else 0
        bare = prefix.removesuffix("/")
        if path != bare and not path.startswith(bare + "/"):
            return None
        return level, len(bare)

    ranked = [(rank(route), route) for route in routes]
    matching = [(at, route) for at, route in ranked if at is not None]
    return max(matching)[1] if matching else None


@given(st.lists(st.tuples(_HOST, _PATH), max_size=12), _LABELS, _PATH)
def test_it_finds_what_a_slow_search_finds(
    routes: list[tuple[str, str]], host: str, path: str
) -> None:
    router = Router()
    added = [route for route in routes if router.add(route[0].encode(), route[1].encode(), route)]
    assert router.lookup(host.encode(), path.encode()) == _slow(added, host, path)


def _cheapest_ratio(
    one: Callable[[], object], other: Callable[[], object], bound: float, calls: int
) -> float:
    """Return how much dearer ``other`` is than ``one``, each at its best of several turns.

    A noisy machine slows some turns; more are taken until the bound holds, which it never does
    where the cost truly grows.
    """
    best_one = best_other = float("inf")
    for _ in range(60):
        best_one = min(best_one, timeit.timeit(one, number=calls))
        best_other = min(best_other, timeit.timeit(other, number=calls))
        if best_other < bound * best_one:
            break
    return best_other / best_one


def test_ten_thousand_routes_cost_what_ten_do() -> None:
    few, many = Router(), Router()
    for router, count in ((few, 10), (many, 10_000)):
        for number in range(count // 2):
            router.add(b"", b"/service-%04d/v1/" % number, number)
            router.add(b"*.zone-%04d.example" % number, b"/service-4/v1/x/", number)
        router.add(b"", b"/", "rest")
    assert len(many) == 10_001
    for host, path in (
        (b"blkout.example", b"/service-0004/v1/resources"),
        (b"blkout.example", b"/nowhere"),
        (b"a.zone-0004.example", b"/service-4/v1/x/y"),
    ):
        ratio = _cheapest_ratio(
            lambda h=host, p=path: few.lookup(h, p),  # type: ignore[misc]  # bound per turn
            lambda h=host, p=path: many.lookup(h, p),  # type: ignore[misc]
            bound=1.5,
            calls=500,
        )
        assert ratio < 1.5  # measured: 1.0


@pytest.mark.timed
def test_hostile_paths_cost_no_more_than_reading_them() -> None:
    router = Router()
    for depth in range(1, 20):
        router.add(b"", b"/a" * depth, depth)
    assert router.lookup(b"x", b"/a" * 16_000) == 19
    assert router.lookup(b"x", b"/" + b"a" * 32_000) is None
    assert router.lookup(b"x", b"/a/" + b"b" * 32_000) == 1
    ratio = _cheapest_ratio(
        lambda: router.lookup(b"x", b"/a" * 1_000),
        lambda: router.lookup(b"x", b"/a" * 8_000),
        bound=16,
        calls=10,
    )
    assert ratio < 16  # 8 when linear; 64 when quadratic


def test_hostile_hosts_are_looked_at_only_as_far_as_a_wildcard_reaches() -> None:
    router = _router(("*.b.example", "/"))
    assert router.lookup(b"a." * 120 + b"b.example", b"/") == ("*.b.example", "/")
    assert router.lookup(b"." * 255, b"/") is None
