"""Fallbacks in conversation: what a client gets when nobody can serve, and that it is marked."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.board import layout
from gateway.config.snapshot import Fallback, Rescue, Route, SecurityProfile, ServiceTraffic
from tests.support.rig import Rig, service, topology, traffic

STALE = Fallback(kind="stale", paths=("/copies/*",), max_age=60.0)
JSON = Fallback(kind="static", type="application/json", file=0, fields=(("X-Own", "1"),))
FILES = (b'{"limited": true}', b'{"s": "{{service}}", "why": "{{title}}", "m": "{{mode}}"}')


def fall_back(rig: Rig, *fallbacks: Fallback) -> None:
    """Serve ``web`` with these fallbacks."""
    rig.serve(
        topology(
            number=2,
            services=[service(fallbacks=fallbacks or (JSON,))],
            files=FILES,
        )
    )


def counted(rig: Rig) -> tuple[int, int]:
    return rig.row(layout.ROW_FALLBACKS), rig.row(layout.ROW_FALLBACKS + 1)


def test_a_refused_connection_is_hidden_by_a_file_that_says_so(rig: Rig) -> None:
    fall_back(rig)
    rig.client.get("/x")
    rig.refuses()
    answer = rig.client.answer()
    assert (answer.status, answer.body) == (200, FILES[0])
    assert answer.field(b"content-type") == b"application/json"
    assert answer.field(b"x-own") == b"1"
    assert answer.field(b"x-gateway-served-by") == b"static"
    assert answer.field(b"cache-control") == b"no-store"
    assert answer.field(b"x-gateway-error") is None
    assert answer.field(b"date")
    assert len(answer.field(b"x-request-id") or b"") == 32
    assert counted(rig) == (0, 1)
    line = rig.log[-1]
    assert (line["served_by"], line["first"], line["error"]) == ("static", "connect", "connect")
    assert line["color"] == "blue"
    # The connection goes on.
    rig.client.get("/y")
    rig.backend().ok()
    assert rig.client.answer().status == 200
    rig.over([200, 200])


@pytest.mark.parametrize("status", [502, 503, 504])
def test_an_answer_that_says_that_nobody_can_serve_is_hidden(rig: Rig, status: int) -> None:
    fall_back(rig)
    rig.client.get()
    rig.backend().answers(f"HTTP/1.1 {status} No\r\nContent-Length: 5\r\n\r\n".encode())
    assert rig.client.answer().body == FILES[0]
    rig.over([200])


@pytest.mark.parametrize("status", [404, 500])
def test_another_answer_is_the_backends(rig: Rig, status: int) -> None:
    fall_back(rig)
    rig.client.get()
    rig.backend().answers(f"HTTP/1.1 {status} No\r\nContent-Length: 2\r\n\r\nno".encode())
    answer = rig.client.answer()
    assert (answer.status, answer.body) == (status, b"no")
    assert counted(rig) == (0, 0)
    rig.over([status])


def test_a_timeout_is_hidden(rig: Rig) -> None:
    fall_back(rig)
    rig.client.get()
    rig.backend()
    rig.advance(10.5)
    assert rig.client.answer().body == FILES[0]
    assert rig.log[-1]["error"] == "first-byte-timeout"
    rig.over([200])


def test_no_endpoint_at_all_is_hidden_at_once(rig: Rig) -> None:
    rig.serve(topology(number=2, services=[service(fallbacks=(JSON,))], pools=(), files=FILES))
    rig.client.get()
    assert rig.client.answer().body == FILES[0]
    assert rig.log[-1]["error"] == "no-endpoint"
    rig.over([200])


def test_head_gets_the_head_alone_and_ranges_and_conditions_get_the_whole(rig: Rig) -> None:
    fall_back(rig)
    rig.client.send(b"HEAD / HTTP/1.1\r\nHost: a.example\r\n\r\n")
    rig.refuses()
    answer = rig.client.answer(to_head=True)
    assert (answer.status, answer.body) == (200, b"")
    assert answer.field(b"content-length") == str(len(FILES[0])).encode()
    rig.client.get(fields='Range: bytes=0-1\r\nIf-None-Match: "x"\r\n')
    rig.refuses()
    answer = rig.client.answer()
    assert (answer.status, answer.body) == (200, FILES[0])
    rig.over([200, 200])


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_a_write_is_never_answered_with_success(rig: Rig, method: str) -> None:
    fall_back(rig, Fallback(kind="static", type="text/html", methods=("GET", method)))
    rig.client.send(f"{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi".encode())
    rig.refuses()
    answer = rig.client.answer()
    assert answer.status == 502
    assert answer.field(b"x-gateway-error") == b"connect"
    rig.over([502])


def test_a_write_may_be_answered_with_an_honest_file(rig: Rig) -> None:
    honest = Fallback(
        kind="static", type="application/json", methods=("POST",), status=503, file=1, template=True
    )
    fall_back(rig, honest)
    rig.client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
    rig.refuses()
    answer = rig.client.answer()
    assert answer.status == 503
    assert answer.body == (b'{"s": "web", "why": "The service could not be reached", "m": "full"}')
    rig.over([503])


def test_an_upgrade_is_refused_not_given_a_page(rig: Rig) -> None:
    fall_back(rig)
    rig.client.get(fields="Connection: Upgrade\r\nUpgrade: websocket\r\n")
    rig.refuses()
    assert rig.client.answer().status == 502
    rig.over([502])


def test_an_answer_that_has_begun_is_cut(rig: Rig) -> None:
    fall_back(rig)
    rig.client.get()
    rig.backend().answers(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
    rig.backend().resets()
    assert rig.client.cut
    assert counted(rig) == (0, 0)
    rig.over([200])


def test_paths_choose_among_fallbacks(rig: Rig) -> None:
    fall_back(rig, Fallback(kind="static", type="text/html", paths=("/a/*",), file=1), JSON)
    rig.client.get("/a/b")
    rig.refuses()
    assert rig.client.answer().body == FILES[1]
    rig.client.get("/b")
    rig.refuses()
    assert rig.client.answer().body == FILES[0]
    rig.over([200, 200])


def test_a_routes_security_fields_are_on_it_too(rig: Rig) -> None:
    rig.serve(
        topology(
            number=2,
            services=[service(fallbacks=(JSON,))],
            routes=[Route(path="/", service="web", security="page")],
            profiles=[SecurityProfile(name="page", fields=(("X-Frame-Options", "DENY"),))],
            files=FILES,
        )
    )
    rig.client.get()
    rig.refuses()
    assert rig.client.answer().field(b"x-frame-options") == b"DENY"
    rig.over([200])


def test_the_candidates_failure_goes_to_stable_before_any_file(rig: Rig) -> None:
    rig.serve(
        topology(
            number=2,
            services=[
                service(fallbacks=(JSON,), rescue=Rescue(on=("connect", "5xx"), methods=("GET",)))
            ],
            files=FILES,
        ),
        traffic(ServiceTraffic(service="web", stable="blue", weight=10_000)),
    )
    rig.client.get()
    rig.refuses()
    rig.backend().ok(b"stable")
    answer = rig.client.answer()
    assert (answer.body, answer.field(b"x-gateway-served-by")) == (b"stable", b"rescue")
    rig.client.get()
    rig.refuses()
    rig.backend().resets()  # an idle connection: a fresh one is tried
    rig.refuses()
    assert rig.client.answer().body == FILES[0]
    assert [line["served_by"] for line in rig.log] == ["rescue", "static"]
    assert [line["role"] for line in rig.log] == ["candidate", "candidate"]
    rig.over([200, 200])


def test_old_clients_get_it_and_their_connection_closes(rig: Rig) -> None:
    fall_back(rig)
    rig.client.send(b"GET / HTTP/1.0\r\n\r\n")
    rig.refuses()
    assert rig.client.answer().body == FILES[0]
    assert rig.client.closed
    rig.over([200])


# --- stale --------------------------------------------------------------------------------------


def keep(rig: Rig, folder: Path) -> None:
    """Have a good answer kept for the fallback."""
    rig.caches(folder)
    fall_back(rig, STALE, JSON)
    rig.client.get("/copies/1")
    fields = "Cache-Control: max-age=60\r\nCDN-Cache-Control: max-age=9\r\nConnection: close\r\n"
    rig.backend().ok(b"kept", fields)
    assert rig.client.answer().body == b"kept"


def test_a_copy_comes_first_and_is_marked(rig: Rig, tmp_path: Path) -> None:
    keep(rig, tmp_path)
    rig.client.get("/copies/1")
    rig.refuses()
    answer = rig.client.answer()
    assert (answer.status, answer.body) == (200, b"kept")
    assert answer.field(b"x-gateway-served-by") == b"stale"
    assert answer.all(b"cache-control") == [b"no-store"]
    assert answer.field(b"cdn-cache-control") is None
    assert answer.field(b"age") == b"0"
    assert counted(rig) == (1, 0)
    line = rig.log[-1]
    assert (line["served_by"], line["error"]) == ("stale", "connect")
    assert "upstream_ms" not in line
    assert line["duration_ms"] >= 0
    rig.over([200, 200])


def test_a_copy_that_is_too_old_does_not_answer(rig: Rig, tmp_path: Path) -> None:
    keep(rig, tmp_path)
    rig.advance(61)
    rig.client.get("/copies/1")
    rig.refuses()
    assert rig.client.answer().body == FILES[0]
    rig.over([200, 200])


@pytest.mark.parametrize(
    ("asks", "says"),
    [
        ("Cookie: sid=1\r\n", ""),
        ("Authorization: Basic eDp5\r\n", ""),
        ("Cache-Control: no-store\r\n", ""),
        ("", "Set-Cookie: a=b\r\n"),
        ("", "Cache-Control: private\r\n"),
        ("", "Cache-Control: no-store\r\n"),
        ("", "Vary: *\r\n"),
    ],
)
def test_what_is_one_persons_is_not_kept(rig: Rig, tmp_path: Path, asks: str, says: str) -> None:
    rig.caches(tmp_path)
    fall_back(rig, STALE, JSON)
    rig.client.get("/copies/1", asks)
    rig.backend().ok(b"his", says + "Connection: close\r\n")
    assert rig.client.answer().body == b"his"
    rig.client.get("/copies/1")
    rig.refuses()
    assert rig.client.answer().body == FILES[0]
    rig.over([200, 200])


def test_a_shared_path_keeps_what_anybody_got(rig: Rig, tmp_path: Path) -> None:
    rig.caches(tmp_path)
    fall_back(rig, Fallback(kind="stale", shared=True), JSON)
    rig.client.get("/copies/1", "Cookie: sid=1\r\n")
    rig.backend().ok(b"all's", "Connection: close\r\n")
    rig.client.answer()
    rig.client.get("/copies/1")
    rig.refuses()
    assert rig.client.answer().body == b"all's"
    rig.client.send(b"HEAD /copies/1 HTTP/1.1\r\nHost: a.example\r\n\r\n")
    rig.refuses()
    assert rig.client.answer(to_head=True).field(b"content-length") == b"5"
    rig.over([200, 200, 200])


def test_the_candidates_request_gets_its_own_copy_or_stables(rig: Rig, tmp_path: Path) -> None:
    keep(rig, tmp_path)
    rig.serve(moved=traffic(ServiceTraffic(service="web", stable="blue", weight=10_000)))
    for answers in (b"kept", b"green's"):
        rig.client.get("/copies/1")
        while rig.core.dials:
            rig.refuses()
        assert rig.client.answer().body == answers
        rig.client.get("/copies/1")
        rig.backend().ok(b"green's", "Connection: close\r\n")
        rig.client.answer()
    rig.over([200] * 5)


def test_stables_request_never_gets_the_candidates_copy(rig: Rig, tmp_path: Path) -> None:
    rig.caches(tmp_path)
    fall_back(rig, STALE, JSON)
    rig.serve(moved=traffic(ServiceTraffic(service="web", stable="blue", weight=10_000)))
    rig.client.get("/copies/1")
    rig.backend().ok(b"green's", "Connection: close\r\n")
    rig.client.answer()
    rig.serve(moved=traffic(ServiceTraffic(service="web", stable="blue")))
    rig.client.get("/copies/1")
    rig.refuses()
    assert rig.client.answer().body == FILES[0]
    rig.serve(moved=traffic(ServiceTraffic(service="web", stable="green")))
    rig.client.get("/copies/1")
    rig.refuses()
    assert rig.client.answer().body == b"green's", "it is stable now"
    rig.over([200] * 3)


def test_a_write_ends_the_copy_and_the_next_answer_is_kept_at_once(
    rig: Rig, tmp_path: Path
) -> None:
    keep(rig, tmp_path)
    rig.advance(1)
    rig.client.send(b"DELETE /copies/1 HTTP/1.1\r\nHost: a.example\r\n\r\n")
    rig.backend().ok(b"done", "Connection: close\r\n")
    rig.client.answer()
    rig.advance(1)
    for body in (FILES[0], b"new"):
        rig.client.get("/copies/1")
        rig.refuses()
        assert rig.client.answer().body == body
        rig.client.get("/copies/1")
        rig.backend().ok(b"new", "Connection: close\r\n")
        rig.client.answer()
    rig.over([200] * 6)


def test_a_copy_is_not_written_again_at_once(rig: Rig, tmp_path: Path) -> None:
    keep(rig, tmp_path)
    for body, seconds in ((b"soon", 0), (b"later", 11)):
        rig.advance(seconds)
        rig.client.get("/copies/1")
        rig.backend().ok(body, "Connection: close\r\n")
        rig.client.answer()
        rig.client.get("/copies/1")
        rig.refuses()
        assert rig.client.answer().body == (b"kept" if body == b"soon" else b"later")
    rig.over([200] * 5)


def test_without_a_copy_or_a_cache_the_next_fallback_answers(rig: Rig, tmp_path: Path) -> None:
    fall_back(rig, STALE, JSON)
    rig.client.get("/copies/1")
    rig.refuses()
    assert rig.client.answer().body == FILES[0]
    rig.caches(tmp_path)
    fall_back(rig, STALE, JSON)
    rig.client.get("/copies/1")
    rig.refuses()
    assert rig.client.answer().body == FILES[0]
    fall_back(rig, STALE)
    rig.client.get("/copies/1")
    rig.refuses()
    answer = rig.client.answer()
    assert (answer.status, answer.field(b"x-gateway-error")) == (502, b"connect")
    assert counted(rig) == (0, 2)
    rig.over([200, 200, 502])
