"""The builder: what a snapshot becomes, what is kept of the last one, how it holds the loop."""

from __future__ import annotations

import asyncio
import gc
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.config.snapshot import (
    Limits,
    Route,
    SecurityProfile,
    Service,
    ServiceTraffic,
    Timeouts,
)
from gateway.proxy.serving import Builder, RouteRun, nothing
from tests.support.rig import SLABS, board, endpoint, pool, run, service, topology, traffic


def _builder() -> Builder:
    return Builder(board(), 0, SLABS)


def _route(serving: object, path: bytes, host: bytes = b"a.example") -> RouteRun:
    found = serving.router.lookup(host, path)  # type: ignore[attr-defined]
    assert isinstance(found, RouteRun)
    return found


def test_before_the_first_snapshot_nothing_is_served() -> None:
    serving = nothing()
    assert serving.topology == 0
    assert serving.router.lookup(b"a.example", b"/") is None


def test_endpoints_are_kept_by_their_id() -> None:
    builder = _builder()
    run(builder.build(topology(), traffic()))
    before = dict(builder.endpoints)
    run(builder.build(topology(number=2), traffic(release="r-2")))
    assert all(builder.endpoints[name] is kept for name, kept in before.items())
    run(builder.build(topology(number=3, pools=[pool("web", "blue", endpoint(0))]), traffic()))
    assert builder.endpoints["web-blue-1-0"] is before["web-blue-1-0"]
    assert before["web-green-1-1"].retired
    assert not before["web-blue-1-0"].retired


class Idle:
    """A connection as its endpoint sees it."""

    def __init__(self) -> None:
        self.closed = False

    def abort(self) -> None:
        self.closed = True


def test_idle_connections_are_closed_where_there_are_most() -> None:
    builder = _builder()
    run(builder.build(topology(), traffic()))
    blue, green = (builder.endpoints[name] for name in ("web-blue-1-0", "web-green-1-1"))
    for member, count in ((green, 5), (blue, 2)):
        for _ in range(count):
            idle: Any = Idle()
            member.connections.add(idle)
            member.give_back(idle)
    taken = set(green.connections)
    builder.close_idle(4)
    assert (blue.idle_count(), green.idle_count()) == (2, 1)
    assert builder.upstreams() == (0, 3)
    assert sum(each.closed for each in taken) == 4
    builder.close_idle(9)
    assert builder.upstreams() == (0, 0)


@pytest.mark.parametrize(
    "change", [{"cell": 5}, {"host": "10.9.9.9"}, {"port": 81}, {"scheme": "https"}]
)
def test_an_endpoint_that_moved_is_another_one(change: dict[str, Any]) -> None:
    builder = _builder()
    run(builder.build(topology(pools=[pool("web", "blue", endpoint(0))]), traffic()))
    before = builder.endpoints["web-blue-1-0"]
    moved = endpoint(**{"cell": 0, "id": "web-blue-1-0", **change})
    run(builder.build(topology(number=2, pools=[pool("web", "blue", moved)]), traffic()))
    assert builder.endpoints["web-blue-1-0"] is not before
    assert before.retired


def test_the_router_is_kept_while_its_routes_are() -> None:
    builder = _builder()
    first = run(builder.build(topology(), traffic()))
    moved = run(
        builder.build(topology(number=2), traffic(ServiceTraffic(service="web", stable="green")))
    )
    assert moved.router is first.router
    for change in (
        topology(number=3, routes=[Route(path="/x", service="web")]),
        topology(number=4, limits=Limits(await_body=0, body=5)),
        topology(number=5, services=[service(timeouts=Timeouts(total=1.0))]),
        topology(number=6, services=[service("other", 2), service()]),
    ):
        before = run(builder.build(topology(number=9), traffic()))
        after = run(builder.build(change, traffic()))
        assert after.router is not before.router


def test_a_build_that_fails_changes_nothing(tmp_path: Path) -> None:
    builder = _builder()
    first = run(builder.build(topology(), traffic()))
    broken = topology(
        number=2,
        routes=[Route(path="/new", service="web")],
        services=[service(tls_ca=str(tmp_path / "none.pem"))],
        pools=[pool("web", "blue", endpoint(7, scheme="https"))],
    )
    with pytest.raises(ValueError, match=r"none\.pem"):
        run(builder.build(broken, traffic()))
    assert set(builder.endpoints) == {"web-blue-1-0", "web-green-1-1"}
    assert not builder.endpoints["web-blue-1-0"].retired
    # The routes of the broken one come with the next that can be served.
    fixed = topology(number=3, routes=[Route(path="/new", service="web")])
    serving = run(builder.build(fixed, traffic()))
    assert serving.router is not first.router
    assert _route(serving, b"/new").service_name == "web"
    assert serving.router.lookup(b"a.example", b"/") is None


@pytest.mark.parametrize(
    ("route", "message"),
    [
        (Route(path="/", service="none"), "no service is called none"),
        (Route(path="/", service="web", security="none"), "no profile is called none"),
        (Route(path="/a/../b", service="web"), "dot"),
    ],
)
def test_a_route_that_cannot_be_served_is_a_value_error(route: Route, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(_builder().build(topology(routes=[route]), traffic()))


def test_what_a_route_overrides() -> None:
    own = Timeouts(total=600.0)
    profile = SecurityProfile(name="page", fields=(("X-A", "b"),))
    serving = run(
        _builder().build(
            topology(
                routes=[
                    Route(path="/", service="web"),
                    Route(path="/up/", service="web", body_limit=7, timeouts=own, strip=True),
                    Route(path="/page/x", service="web", security="page", strip=True),
                ],
                profiles=[profile],
                limits=Limits(await_body=0, body=100),
            ),
            traffic(),
        )
    )
    plain, up, page = (_route(serving, path) for path in (b"/", b"/up/x", b"/page/x"))
    assert (plain.body_limit, plain.timeouts, plain.security) == (100, Timeouts(), None)
    assert (up.body_limit, up.timeouts, up.strip) == (7, own, 1)
    assert page.strip == 2
    assert page.security is not None
    assert page.security[0].block(0) == b"X-A: b\r\n"


def test_roles_and_weights() -> None:
    services = [service("a", 1), service("b", 2), service("c", 3)]
    serving = run(
        _builder().build(
            topology(services=services, routes=[Route(path="/", service="a")], pools=[]),
            traffic(
                ServiceTraffic(service="a", stable="green", weight=25),
                ServiceTraffic(service="b", stable="blue", closed=("green",)),
            ),
        )
    )
    a, b, c = serving.services
    assert (a.stable_green, a.weight) == (True, 25)
    assert (b.stable_green, b.pools[0].closed, b.pools[1].closed) == (False, False, True)
    assert (c.stable_green, c.weight) == (False, 0)
    assert serving.split


@pytest.mark.timed
async def test_ten_thousand_routes_hold_the_loop_for_a_moment_only() -> None:
    """Measured as the longest gap between two turns of a loop that has nothing else to do."""
    routes = [
        Route(path=f"/api/v{i % 7}/thing-{i}", service="web", host=f"h{i % 100}.example")
        for i in range(10_000)
    ]
    builder = _builder()
    wanted = topology(routes=routes)
    gaps: list[float] = []
    done = False

    async def watch() -> None:
        last = time.perf_counter()
        while not done:
            await asyncio.sleep(0)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    gc.collect()
    watching = asyncio.ensure_future(watch())
    serving = await builder.build(wanted, traffic())
    done = True
    await watching
    assert len(serving.router) == 10_000
    assert _route(serving, b"/api/v1/thing-1/x", b"h1.example").service_name == "web"
    assert len(gaps) > 100
    # The machine is shared: one gap may be another process's.
    assert sorted(gaps)[-3] < 0.02, sorted(gaps)[-5:]


@pytest.mark.timed
async def test_traffic_moves_fast_with_many_services() -> None:
    services = [service(f"s{i}", i % 250 + 1) for i in range(250)]
    pools = [
        pool(s.name, color, endpoint(2 * i + at, color=color, name=s.name, host="10.1.1.1"))
        for i, s in enumerate(services)
        for at, color in enumerate(("blue", "green"))
    ]
    wanted = topology(services=services, pools=pools, routes=[Route(path="/", service="s1")])
    moved = traffic(*(ServiceTraffic(service=s.name, stable="blue", weight=5) for s in services))
    builder = _builder()
    await builder.build(wanted, moved)
    took = []
    for _ in range(5):
        begin = time.perf_counter()
        await builder.build(wanted, moved)
        took.append(time.perf_counter() - begin)
    assert min(took) < 0.02


def test_a_services_row_is_its_own() -> None:
    serving = run(
        _builder().build(topology(services=[Service(name="web", row=17)], pools=[]), traffic())
    )
    assert serving.services[0].row == 17
