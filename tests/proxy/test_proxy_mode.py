"""Maintenance, the platform's mode and its public status, in conversation."""

from __future__ import annotations

import orjson
import pytest

from gateway.board import layout
from gateway.config.snapshot import ErrorPage, Fallback, PageForm, Route, ServiceTraffic
from gateway.proxy.platform import INTERVAL
from tests.support.rig import Rig, endpoint, pool, service, topology, traffic

STATUS = "/.well-known/gateway/status"
READY = "/.well-known/gateway/ready"
STATIC = Fallback(kind="static", type="text/plain")


def maintained(rig: Rig, seconds: float | None = 300.0) -> None:
    rig.serve(
        topology(
            number=2,
            services=[
                service(
                    fallbacks=(STATIC,),
                    error_pages=(
                        ErrorPage(on=("503",), forms=(PageForm(type="text/html", file=1),)),
                    ),
                )
            ],
            files=(b"static", b"<p>soon back"),
        ),
        traffic(ServiceTraffic(service="web", stable="blue", maintenance=seconds)),
    )


# --- maintenance --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_service_in_maintenance_answers_503_and_nobody_is_asked(rig: Rig, method: str) -> None:
    maintained(rig)
    rig.client.send(f"{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi".encode())
    answer = rig.client.answer()
    assert answer.status == 503
    assert answer.field(b"retry-after") == b"300"
    assert answer.field(b"x-gateway-error") == b"maintenance"
    assert orjson.loads(answer.body)["title"] == "The service is in maintenance"
    assert rig.dialling == 0
    maintained(rig, None)
    rig.connect().get()
    rig.backend().ok()
    assert rig.client.answer().status == 200
    rig.over([503, 200])


def test_its_page_is_the_one_for_503(rig: Rig) -> None:
    maintained(rig, 1.5)
    rig.client.get(fields="Accept: text/html\r\n")
    answer = rig.client.answer()
    assert (answer.status, answer.body) == (503, b"<p>soon back")
    assert answer.field(b"retry-after") == b"2"
    rig.over([503])


# --- the public status --------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["a.example", "unknown.example"])
def test_anybody_may_ask_for_the_status_whatever_the_host(rig: Rig, host: str) -> None:
    rig.serve(topology(number=2, routes=[Route(path="/", host="a.example", service="web")]))
    rig.client.get(STATUS, host=host)
    answer = rig.client.answer()
    assert answer.status == 200
    assert orjson.loads(answer.body) == {"mode": "full", "services": {"web": "up"}}
    assert answer.field(b"content-type") == b"application/json"
    assert answer.field(b"cache-control") == b"public, max-age=5"
    assert answer.field(b"access-control-allow-origin") == b"*"
    assert answer.field(b"x-request-id")
    assert rig.dialling == 0
    assert rig.log[-1]["service"] == ""
    rig.over([200])


def test_the_status_has_a_head_and_takes_a_query(rig: Rig) -> None:
    rig.client.send(f"HEAD {STATUS}?x=1 HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    answer = rig.client.answer(to_head=True)
    assert (answer.status, answer.field(b"content-length")) == (200, b"39")
    rig.over([200])


@pytest.mark.parametrize("body", ["", "Content-Length: 2\r\n\r\nhi"])
def test_other_methods_are_405(rig: Rig, body: str) -> None:
    rig.client.send(f"POST {STATUS} HTTP/1.1\r\nHost: a\r\n{body or chr(13) + chr(10)}".encode())
    answer = rig.client.answer()
    assert (answer.status, answer.field(b"allow")) == (405, b"GET, HEAD")
    assert answer.field(b"x-gateway-error") == b"not-allowed"
    rig.over([405])


@pytest.mark.parametrize(
    "path", ["/.well-known/gateway/status/", "/.well-known/gateway", "/.well-known/gateway/statusx"]
)
def test_other_paths_are_the_backends(rig: Rig, path: str) -> None:
    rig.client.get(path)
    assert rig.backend().request.startswith(f"GET {path} ".encode())
    rig.backend().ok()
    rig.over([200])


def test_an_escaped_path_is_the_same_one(rig: Rig) -> None:
    rig.client.get("/.well-known/g%61teway/status")
    assert rig.client.answer().field(b"access-control-allow-origin") == b"*"
    rig.over([200])


@pytest.mark.parametrize(("leaving", "status"), [(0, 200), (1, 503)])
def test_an_outer_balancer_is_told_whether_to_come(rig: Rig, leaving: int, status: int) -> None:
    rig.words[layout.H_LEAVING] = leaving
    for method in ("GET", "HEAD"):
        rig.client.send(f"{method} {READY} HTTP/1.1\r\nHost: whoever\r\n\r\n".encode())
        answer = rig.client.answer(to_head=method == "HEAD")
        assert answer.status == status
        assert answer.field(b"cache-control") == b"no-store"
    rig.client.send(f"POST {READY} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert rig.client.answer().status == 405
    # Nobody is sent away: it only says so.
    rig.client.get("/")
    rig.backend().ok()
    assert rig.client.answer().status == 200
    rig.over([status, status, 405, 200])


# --- read only ----------------------------------------------------------------------------------


def platform(rig: Rig) -> None:
    """Serve ``web`` (not critical, at cell 0) and ``api`` (critical, at cell 1)."""
    rig.serve(
        topology(
            number=2,
            services=[service(), service("api", row=2, critical=True, fallbacks=(STATIC,))],
            pools=(pool("web", "blue", endpoint(0)), pool("api", "blue", endpoint(1, name="api"))),
            routes=[Route(path="/", service="web"), Route(path="/api", service="api")],
            files=(b"static",),
        ),
        traffic(
            ServiceTraffic(service="web", stable="blue"),
            ServiceTraffic(service="api", stable="blue"),
        ),
    )


def health(rig: Rig, cell: int, word: int) -> None:
    rig.words[layout.cell_at(cell) + layout.CELL_HEALTH] = word
    rig.advance(INTERVAL + 0.1)


def write(rig: Rig, path: str) -> None:
    rig.connect().send(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi".encode())


def test_writes_to_what_is_down_are_refused_and_only_these(rig: Rig) -> None:
    platform(rig)
    health(rig, 1, layout.DOWN)
    write(rig, "/api/x")
    answer = rig.client.answer()
    assert answer.status == 503
    assert answer.field(b"retry-after") == b"10"
    assert answer.field(b"x-gateway-error") == b"read-only"
    assert orjson.loads(answer.body) == {
        "type": "urn:gateway:error:read-only",
        "title": "The service is down, the platform is read only",
        "status": 503,
        "mode": "read_only",
    }
    assert rig.dialling == 0
    # A service that is up takes its writes.
    write(rig, "/x")
    rig.backend().answers(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
    assert rig.client.answer().status == 201
    # What is safe is answered by a file.
    rig.connect().get("/api/x")
    rig.refuses()
    assert rig.client.answer().body == b"static"
    rig.client.get(STATUS)
    assert orjson.loads(rig.client.answer().body) == {
        "mode": "read_only",
        "services": {"web": "up", "api": "down"},
    }
    # As soon as it is back it takes writes again.
    health(rig, 1, layout.UP)
    write(rig, "/api/x")
    rig.backend().ok()
    assert rig.client.answer().status == 200
    rig.over([503, 201, 200, 200, 200])


def test_in_other_modes_a_write_to_what_is_down_is_tried(rig: Rig) -> None:
    platform(rig)
    health(rig, 0, layout.DOWN)
    write(rig, "/x")
    rig.refuses()
    assert rig.client.answer().status == 502
    rig.over([502])


def test_an_open_breaker_makes_a_service_down(rig: Rig) -> None:
    platform(rig)
    rig.words[layout.cell_at(1) + layout.CELL_BREAKER] = layout.BREAKER_FORCED
    rig.advance(INTERVAL + 0.1)
    write(rig, "/api")
    assert rig.client.answer().field(b"x-gateway-error") == b"read-only"
    rig.over([503])
