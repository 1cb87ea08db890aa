"""L3 and L4 over real sockets: what is sent, what is judged, whose fault it is."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator

import msgspec
import pytest
from aiohttp import web

from gateway.config.snapshot import Endpoint
from gateway.health.answers import Expected, JsonRule, Request
from gateway.health.door import FIELD, Door
from gateway.health.policy import HttpCheck, IntegrationCheck
from gateway.health.probes import KEPT_BODY, NetworkProbes, Result
from gateway.policy.override import verify_probe

SECRET = b"0123456789012345678901"
NOW = 1_700_000_000.0
#: Answers that no backend gives.
OWN_ANSWERS = {
    "/rescued": (200, {"X-Gateway-Served-By": "rescue"}),
    "/failed": (502, {"X-Gateway-Error": "connect"}),
    "/overload": (503, {"X-Gateway-Error": "overload", "X-Request-Id": "0123"}),
    "/full": (503, {"X-Gateway-Error": "overload"}),
}


class Application:
    """Answers what a check may meet; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[web.BaseRequest] = []
        self.bodies: list[bytes] = []

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(request)
        self.bodies.append(await request.read())
        if request.path == "/cut":
            answer = web.StreamResponse(headers={"Content-Length": "100"})
            await answer.prepare(request)
            await answer.write(b"half")
            assert request.transport is not None
            request.transport.abort()
            return answer
        if request.path == "/gone":
            assert request.transport is not None
            request.transport.abort()
        if request.path == "/stalls":
            await asyncio.sleep(60)
        if request.path in OWN_ANSWERS:
            status, fields = OWN_ANSWERS[request.path]
            return web.json_response({}, status=status, headers=fields)
        if request.path == "/nasty":
            return web.Response(status=500, body=b"\x1b[2J\xff\x00" * 200)
        return web.json_response(
            {"path": request.path_qs, "id": 7, "ok": True}, headers={"Set-Cookie": "sid=1; Path=/"}
        )


@pytest.fixture
async def application() -> AsyncIterator[tuple[Application, int]]:
    application = Application()
    runner = web.ServerRunner(web.Server(application.handle), shutdown_timeout=0.1)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listener).start()
    yield application, int(listener.getsockname()[1])
    await runner.cleanup()


@pytest.fixture
async def probes() -> AsyncIterator[NetworkProbes]:
    probes = NetworkProbes(time.monotonic)
    yield probes
    await probes.close()


def endpoint(port: int) -> Endpoint:
    return Endpoint(
        id="a", cell=0, url=f"http://127.0.0.1:{port}", scheme="http", host="127.0.0.1", port=port
    )


OK = Expected(json=(JsonRule("ok", "equal", True),))


async def test_l3_sends_what_it_is_told_and_looks_into_the_answer(
    application: tuple[Application, int], probes: NetworkProbes
) -> None:
    app, port = application
    request = Request(
        method="POST",
        path="/a%2Fb?x={y}&z=%7E",
        fields=(("Host", "shop.example"), ("X-Two", "1"), ("Content-Type", "application/json")),
        body='{"q": 1}',
        expected=OK,
    )
    result = await probes.business(endpoint(port), request, 5, None)
    assert result.good, result
    assert (result.level, result.status) == ("L3", 200)
    (asked,) = app.asked
    assert (asked.method, asked._message.path) == ("POST", "/a%2Fb?x={y}&z=%7E")
    assert asked.headers["Host"] == "shop.example"
    assert asked.headers["Content-Type"] == "application/json"
    assert "Accept-Encoding" not in asked.headers
    assert app.bodies == [b'{"q": 1}']
    bad = await probes.business(
        endpoint(port),
        Request(path="/", expected=Expected(json=(JsonRule("id", "equal", 8),))),
        5,
        None,
    )
    assert (bad.good, bad.status, bad.detail) == (False, 200, "id is 7, expected 8")
    assert json.loads(bad.body)["id"] == 7


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/stalls", "no answer within 0.1 s"),
        ("/cut", ""),
        ("/gone", ""),
        ("/nasty", "answered 500"),
    ],
)
async def test_l3_never_raises(
    application: tuple[Application, int], probes: NetworkProbes, path: str, said: str
) -> None:
    seconds = 0.1 if path == "/stalls" else 5
    result = await probes.business(
        endpoint(application[1]), Request(path=path, expected=OK), seconds, None
    )
    assert not result.good
    assert result.detail
    assert said in result.detail
    assert len(result.excerpt) <= KEPT_BODY


# --- L4 -------------------------------------------------------------------------------------------


def door(port: int) -> Door:
    return Door(f"http://127.0.0.1:{port}", SECRET, lambda: NOW)


async def run(probes: NetworkProbes, port: int, *requests: Request, seconds: float = 5) -> Result:
    check = IntegrationCheck(requests=requests, timeout=seconds)
    return await probes.integration(door(port), check, "green")


async def test_l4_carries_values_and_its_token(
    application: tuple[Application, int], probes: NetworkProbes
) -> None:
    app, port = application
    first = Request(
        method="POST", path="/new", capture=(("id", "id"), ("session", "field:set-cookie"))
    )
    second = Request(path="/items/{id}", fields=(("Cookie", "{session}"),), expected=OK)
    result = await run(probes, port, first, second)
    assert result.good, result
    assert result.counts
    assert [each.path for each in app.asked] == ["/new", "/items/7"]
    assert app.asked[1].headers["Cookie"] == "sid=1"
    for each in app.asked:
        token = each.headers[FIELD].encode()
        assert verify_probe(SECRET, token, now=NOW) == "green"
    assert json.loads(result.body)["path"] == "/items/7"


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/rescued", 200, "answered 200 by the gateway itself (rescue)"),
        ("/failed", 502, "answered 502 by the gateway itself (connect)"),
        ("/overload", 503, "answered 503 by the gateway itself (overload)"),
        ("/nasty", 500, "answered 500, expected 200"),
    ],
)
async def test_l4_takes_no_answer_that_hides_a_failure(
    application: tuple[Application, int],
    probes: NetworkProbes,
    path: str,
    status: int,
    said: str,
) -> None:
    result = await run(probes, application[1], Request(path="/"), Request(path=path))
    assert (result.good, result.counts, result.status) == (False, True, status)
    assert result.detail == f"request 2 of 2, GET {path}: {said}"


async def test_l4_is_bounded_as_a_whole(
    application: tuple[Application, int], probes: NetworkProbes
) -> None:
    requests = [Request(path="/"), Request(path="/stalls")]
    result = await run(probes, application[1], *requests, seconds=0.2)
    assert "the sequence took longer than 0.2 s" in result.detail
    assert (result.counts, result.status) == (True, None)


async def test_a_value_that_is_missing_ends_the_sequence(
    application: tuple[Application, int], probes: NetworkProbes
) -> None:
    app, port = application
    requests = [Request(path="/", capture=(("x", "gone.0"),)), Request(path="/{x}")]
    result = await run(probes, port, *requests)
    assert result.detail == "request 1 of 2, GET /: has no value at gone.0 for {x}"
    assert len(app.asked) == 1


async def test_a_door_that_is_shut_is_nobody_elses_fault(
    application: tuple[Application, int], probes: NetworkProbes
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = int(listener.getsockname()[1])
    result = await run(probes, closed, Request(path="/"))
    assert (result.good, result.counts) == (False, False)
    assert "the gateway's own listener" in result.detail
    result = await run(probes, application[1], Request(path="/gone"))
    assert (result.good, result.counts) == (False, False)
    # One connection too many (a stranger's idle ones): said before any request is read.
    result = await run(probes, application[1], Request(path="/"), Request(path="/full"))
    assert (result.good, result.counts, result.status) == (False, False, None)
    assert "the gateway's own listener: as many connections as it may have" in result.detail
    # An answer that breaks off is passed on by the gateway: that is its backend's.
    result = await run(probes, application[1], Request(path="/cut"))
    assert (result.good, result.counts) == (False, True)


async def test_probes_ask_no_resolver_and_reach_what_workers_dial(
    application: tuple[Application, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, port = application

    def dead(host: str, *rest: object, **_: object) -> object:
        raise AssertionError(f"{host} was asked for")

    monkeypatch.setattr(socket, "getaddrinfo", dead)
    # The first of a name's addresses may be of no use.
    names: dict[str, tuple[str, ...]] = {"api.test": ("127.0.0.9", "127.0.0.1")}
    named = msgspec.structs.replace(endpoint(port), host="api.test", url=f"http://api.test:{port}")
    probes = NetworkProbes(time.monotonic, names)
    try:
        assert (await probes.tcp(named, 5)).good
        result = await probes.http(named, HttpCheck(path="/", status=200), 5, None)
        assert result.status is not None, result
        names.clear()
        unknown = await probes.tcp(named, 5)
        assert unknown.detail == "the name api.test could not be resolved yet"
        assert not (await probes.http(named, HttpCheck(path="/", status=200), 5, None)).good
    finally:
        await probes.close()
