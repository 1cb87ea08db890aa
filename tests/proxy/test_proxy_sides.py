"""Which side a request goes to, what the client is given for it, and assets of the other color."""

from __future__ import annotations

import re

import pytest

from gateway.board import layout
from gateway.config.snapshot import Cohort, Route, ServiceTraffic, Timeouts
from gateway.policy.override import mint
from tests.support.rig import EPOCH, Rig, endpoint, pool, service, topology, traffic

NAVIGATE = "Sec-Fetch-Mode: navigate\r\nAccept: text/html\r\n"
SECRET = b"0123456789abcdef0123456789abcdef"


def _split(rig: Rig, weight: int = 5000, **more: object) -> None:
    rig.serve(
        topology(number=2, **more),  # type: ignore[arg-type]
        traffic(ServiceTraffic(service="web", stable="blue", weight=weight), release="r-1"),
    )


def _color(rig: Rig) -> bytes:
    return rig.backend().fields[b"x-release-color"]


def test_a_navigation_in_a_split_is_given_a_cookie_and_keeps_its_side(rig: Rig) -> None:
    _split(rig)
    for _ in range(8):
        rig.connect().get(fields=NAVIGATE)
        color = _color(rig)
        rig.backend().ok(fields="Cache-Control: private\r\nContent-Type: text/html\r\n")
        given = rig.client.answer().all(b"set-cookie")
        assert len(given) == 1
        cookie = re.fullmatch(
            rb"(gw_cohort=[\w-]{22}); Max-Age=2592000; Path=/; HttpOnly; SameSite=Lax", given[0]
        )
        assert cookie
        rig.client.get(fields=NAVIGATE + f"Cookie: {cookie[1].decode()}\r\n")
        assert _color(rig) == color
        rig.backend().ok(fields="Cache-Control: private\r\n")
        assert rig.client.answer().field(b"set-cookie") is None
    assert {line["color"] for line in rig.log} == {"blue", "green"}
    assert {line["weight"] for line in rig.log} == {5000}
    rig.over([200] * 16)


@pytest.mark.parametrize(
    ("control", "cookie", "after"),
    [
        (None, True, b"private"),
        ("private", True, b"private"),
        ("no-store", True, b"no-store"),
        ("no-cache", True, b"no-cache"),
        ("public, max-age=60", False, b"public, max-age=60"),
        ("max-age=60", False, b"max-age=60"),
        ("s-maxage=60", False, b"s-maxage=60"),
    ],
)
def test_a_shared_cache_never_keeps_a_cookie(
    rig: Rig, control: str | None, cookie: bool, after: bytes
) -> None:
    _split(rig)
    rig.client.get(fields=NAVIGATE)
    rig.backend().ok(fields=f"Cache-Control: {control}\r\n" if control else "")
    answer = rig.client.answer()
    assert (answer.field(b"set-cookie") is not None) == cookie
    assert answer.all(b"cache-control") == [after]
    rig.over([200])


@pytest.mark.parametrize(
    "fields",
    [
        "",
        "Accept: */*\r\n",
        "Sec-Fetch-Mode: cors\r\n",
        "Sec-Fetch-Dest: script\r\nAccept: text/html\r\n",
    ],
)
def test_what_is_no_navigation_is_given_none(rig: Rig, fields: str) -> None:
    _split(rig)
    rig.client.get(fields=fields)
    rig.backend().ok()
    answer = rig.client.answer()
    assert answer.field(b"set-cookie") is None
    assert answer.field(b"cache-control") is None
    rig.over([200])


@pytest.mark.parametrize("weight", [0, 10000])
def test_without_a_split_there_is_no_cookie(rig: Rig, weight: int) -> None:
    _split(rig, weight)
    rig.client.get(fields=NAVIGATE)
    assert _color(rig) == (b"green" if weight else b"blue")
    rig.backend().ok()
    assert rig.client.answer().field(b"set-cookie") is None
    rig.over([200])


def test_behind_a_cdn_html_of_a_split_is_not_stored(rig: Rig) -> None:
    _split(rig, behind_cdn=True)
    rig.client.get()
    rig.backend().ok(
        fields="Content-Type: text/html\r\nCache-Control: public\r\nCDN-Cache-Control: x\r\n"
    )
    answer = rig.client.answer()
    assert answer.all(b"cache-control") == [b"private"]
    assert answer.all(b"cdn-cache-control") == [b"no-store"]
    rig.client.get()
    rig.backend().ok(fields="Content-Type: text/css\r\nCache-Control: public\r\n")
    assert rig.client.answer().all(b"cache-control") == [b"public"]
    rig.over([200, 200])


def test_a_forced_rollback_outranks_all_else(rig: Rig) -> None:
    _split(rig, 10000, cohort=Cohort(secret=SECRET), internal_callers=("192.0.2.0/24",))
    rig.core.forced_stable = True
    token = mint(SECRET, host="a.example", release="r-1", side="candidate", expires=int(EPOCH) + 60)
    for fields in (
        "",
        f"gw_override: {token}\r\n",
        "X-Release-Id: r-1\r\nX-Release-Role: candidate\r\nX-Release-Key: 0123456789abcdef\r\n",
    ):
        rig.client.get(fields=fields)
        assert _color(rig) == b"blue"
        rig.backend().ok()
    rig.core.forced_stable = False
    rig.client.get()
    assert _color(rig) == b"green"
    rig.backend().ok()
    rig.over([200] * 4)


@pytest.mark.parametrize("where", ["field", "query", "cookie"])
def test_a_testers_token(rig: Rig, where: str) -> None:
    _split(rig, 0, cohort=Cohort(secret=SECRET))
    token = mint(SECRET, host="a.example", release="r-1", side="candidate", expires=int(EPOCH) + 60)
    target, fields = "/x?a=b", ""
    if where == "field":
        fields = f"gw_override: {token}\r\n"
    elif where == "query":
        target = f"/x?a=b&gw_override={token}"
    else:
        fields = f"Cookie: gw_override={token}; c=d\r\n"
    rig.client.get(target, fields)
    backend = rig.backend()
    assert token.encode() not in backend.sent
    assert backend.sent.startswith(b"GET /x?a=b HTTP/1.1\r\n")
    assert _color(rig) == b"green"
    backend.ok()
    given = rig.client.answer().field(b"set-cookie")
    if where == "cookie":
        assert given is None
    else:
        assert given is not None
        assert given.startswith(f"gw_override={token}; Max-Age=60;".encode())
    line = rig.log[0]
    assert line["override"] is True
    assert token not in rig.lines[0].decode()
    rig.over([200])


@pytest.mark.parametrize(
    "change", [{"host": "b.example"}, {"release": "r-2"}, {"expires": int(EPOCH) - 1}, {"bad": 1}]
)
def test_a_token_that_does_not_hold_is_ignored(rig: Rig, change: dict[str, object]) -> None:
    _split(rig, 0, cohort=Cohort(secret=SECRET))
    values = {"host": "a.example", "release": "r-1", "expires": int(EPOCH) + 60, **change}
    values.pop("bad", None)
    token = mint(SECRET, side="candidate", **values)  # type: ignore[arg-type]
    if "bad" in change:
        token = token[:-1] + ("A" if token[-1] != "A" else "B")
    rig.client.get(fields=f"gw_override: {token}\r\n")
    assert _color(rig) == b"blue"
    rig.backend().ok()
    assert rig.client.answer().field(b"set-cookie") is None
    rig.over([200])


QUOTE = "X-Release-Id: r-1\r\nX-Release-Role: {}\r\nX-Release-Key: 0123456789abcdef\r\n"


@pytest.mark.parametrize(
    ("peer", "role", "weight", "color"),
    [
        ("192.0.2.1", "candidate", 1, b"green"),
        ("192.0.2.1", "stable", 9999, b"blue"),
        ("192.0.2.1", "candidate", 0, b"blue"),
        ("198.51.100.1", "candidate", 1, b"blue"),
    ],
)
def test_internal_callers_keep_their_side(
    rig: Rig, peer: str, role: str, weight: int, color: bytes
) -> None:
    _split(rig, weight, internal_callers=("192.0.2.0/24",))
    rig.connect(peer).get(fields=QUOTE.format(role))
    fields = rig.backend().fields
    assert fields[b"x-release-color"] == color
    if peer == "192.0.2.1":
        assert fields[b"x-release-key"] == b"0123456789abcdef"
    else:
        assert fields.get(b"x-release-key") != b"0123456789abcdef"
    rig.backend().ok()
    rig.over([200])


def test_callers_that_become_internal_on_a_kept_connection(rig: Rig) -> None:
    _split(rig, 1)
    rig.client.get(fields=QUOTE.format("candidate"))
    assert _color(rig) == b"blue"
    rig.backend().ok()
    _split(rig, 1, internal_callers=("192.0.2.0/24",))
    rig.client.get(fields=QUOTE.format("candidate"))
    assert _color(rig) == b"green"
    rig.backend().ok()
    rig.over([200, 200])


def test_a_vouched_identity_decides(rig: Rig) -> None:
    _split(rig, cohort=Cohort(header="X-User-Id"), trusted_proxies=("192.0.2.0/24",))
    colors = set()
    for user in range(12):
        seen = set()
        for client in ("198.51.100.1", "198.51.100.2"):
            rig.client.get(fields=f"X-User-Id: u{user}\r\nX-Forwarded-For: {client}\r\n")
            seen.add(_color(rig))
            rig.backend().ok()
        assert len(seen) == 1
        colors |= seen
    assert colors == {b"blue", b"green"}
    # From anyone else it says nothing.
    seen = set()
    for user in range(12):
        rig.connect("203.0.113.1").get(fields=f"X-User-Id: u{user}\r\n")
        seen.add(_color(rig))
        rig.backend().ok()
    assert len(seen) == 1
    rig.over()


@pytest.mark.parametrize("empty", ["closed", "none"])
def test_a_color_that_is_out_is_served_by_the_other(rig: Rig, empty: str) -> None:
    pools = [pool("web", "blue", endpoint(0)), pool("web", "green", endpoint(1, color="green"))]
    closed: tuple[str, ...] = ("green",) if empty == "closed" else ()
    rig.serve(
        topology(pools=pools if closed else pools[:1]),
        traffic(
            ServiceTraffic(service="web", stable="blue", weight=10000, closed=closed)  # type: ignore[arg-type]
        ),
    )
    rig.client.get()
    fields = rig.backend().fields
    assert (fields[b"x-release-color"], fields[b"x-release-role"]) == (b"blue", b"stable")
    rig.backend().ok()
    assert (rig.log[0]["color"], rig.log[0]["role"]) == ("blue", "stable")
    rig.over([200])


def test_both_colors_out_is_503(rig: Rig) -> None:
    rig.serve(moved=traffic(ServiceTraffic(service="web", stable="blue", closed=("blue", "green"))))
    rig.client.get()
    answer = rig.client.answer()
    assert (answer.status, answer.field(b"x-gateway-error")) == (503, b"no-endpoint")
    assert not answer.body.count(b"web")
    rig.over([503])


# --- assets ---------------------------------------------------------------------------------------

NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone"
CHUNKED_NOT_FOUND = (
    b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nnone\r\n0\r\n\r\n"
)


def _assets(rig: Rig, **more: object) -> None:
    rig.serve(topology(number=2, assets=("/assets/*",), **more))  # type: ignore[arg-type]


def test_an_asset_of_the_other_color(rig: Rig) -> None:
    _assets(rig)
    rig.client.get("/assets/a.js")
    first = rig.backend()
    first.answers(NOT_FOUND)
    assert rig.client.received == b""
    second = rig.backend()
    assert second.endpoint.id == "web-green-1-1"
    assert second.sent.startswith(b"GET /assets/a.js HTTP/1.1\r\n")
    assert second.fields[b"x-release-color"] == b"green"
    second.ok(b"js", "Content-Type: text/javascript\r\n")
    assert rig.client.answer().body == b"js"
    assert rig.row(layout.ROW_ASSET_SECOND_TRIES) == 1
    assert rig.log[0]["color"] == "green"
    rig.over([200])


def test_html_in_place_of_a_script_is_a_miss(rig: Rig) -> None:
    _assets(rig)
    rig.client.get("/assets/a.js")
    rig.backend().ok(b"<html>", "Content-Type: text/html\r\n")
    rig.backend().ok(b"js", "Content-Type: text/javascript\r\n")
    assert rig.client.answer().body == b"js"
    rig.over([200])


@pytest.mark.parametrize(
    "second",
    [
        NOT_FOUND.replace(b"none", b"nope"),
        b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
@pytest.mark.parametrize(
    "first",
    [
        NOT_FOUND,
        b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nnone\r\n0\r\n\r\n",
    ],
    ids=["length", "chunked"],
)
def test_where_neither_has_it_the_first_answer_stands(
    rig: Rig, first: bytes, second: bytes
) -> None:
    _assets(rig)
    rig.client.get("/assets/a.js")
    rig.backend().answers(first)
    rig.backend().answers(second)
    answer = rig.client.answer()
    assert (answer.status, answer.body) == (404, b"none")
    assert (rig.log[0]["color"], rig.log[0]["endpoint"]) == ("blue", "web-blue-1-0")
    assert rig.client.open
    rig.over([404])


@pytest.mark.parametrize("how", ["refused", "reset", "garbage"])
def test_where_the_other_color_fails_the_first_answer_stands(rig: Rig, how: str) -> None:
    _assets(rig)
    rig.client.get("/assets/a.js")
    rig.backend().answers(NOT_FOUND)
    if how == "refused":
        rig.refuses()
    elif how == "reset":
        rig.backend().resets()
    else:
        rig.backend().answers(b"nonsense\r\n")
    answer = rig.client.answer()
    assert (answer.status, answer.body) == (404, b"none")
    rig.over([404])


def test_a_held_answer_that_is_still_coming_goes_on(whole: Rig) -> None:
    rig = whole
    _assets(rig)
    rig.client.get("/assets/a.js")
    first = rig.backend()
    first.answers(b"HTTP/1.1 404 Not Found\r\nContent-Length: 8\r\n\r\nnone")
    assert not first.transport.is_reading()
    first.answers(b"left")
    rig.advance(10.5)  # the backend has answered: no bound of its own runs meanwhile
    rig.refuses()
    assert rig.client.answer().body == b"noneleft"
    rig.over([404])


def test_a_held_answer_that_breaks_is_not_sent_as_a_whole(whole: Rig) -> None:
    rig = whole
    _assets(rig)
    rig.client.get("/assets/a.js")
    first = rig.backend()
    first.answers(b"HTTP/1.1 404 Not Found\r\nContent-Length: 8\r\n\r\nnone")
    first.resets()
    rig.refuses()
    answer = rig.client.answer()
    assert (answer.status, answer.field(b"x-gateway-error")) == (502, b"truncated")
    rig.over([502])


def test_a_held_answer_that_breaks_does_no_harm_where_the_other_has_it(whole: Rig) -> None:
    rig = whole
    _assets(rig)
    rig.client.get("/assets/a.js")
    first = rig.backend()
    first.answers(b"HTTP/1.1 404 Not Found\r\nContent-Length: 8\r\n\r\nnone")
    first.resets()
    rig.backend().ok(b"js", "Content-Type: text/javascript\r\n")
    assert rig.client.answer().body == b"js"
    rig.over([200])


@pytest.mark.parametrize("held", [b"", b"no"])
def test_a_client_that_leaves_while_the_other_color_is_asked(rig: Rig, held: bytes) -> None:
    _assets(rig)
    rig.client.get("/assets/a.js")
    rig.backend().answers(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\n" + held)
    rig.backend()
    assert rig.in_flight(1) == 1
    rig.client.leaves()
    rig.at_rest()
    rig.over([499])


def test_the_total_ends_a_second_try(rig: Rig) -> None:
    _assets(rig, services=[service(timeouts=Timeouts(total=5.0, first_byte=60.0))])
    rig.client.get("/assets/a.js")
    rig.backend().answers(NOT_FOUND)
    rig.backend()
    rig.advance(5.5)
    assert rig.client.answer().status == 504
    rig.over([504])


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /other/a.js HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"POST /assets/a.js HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"GET /assets/a.js HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\n\r\nx",
    ],
)
def test_what_is_not_asked_of_the_other_color(rig: Rig, request_: bytes) -> None:
    _assets(rig)
    rig.client.send(request_)
    rig.backend().answers(NOT_FOUND)
    assert rig.dialling == 0
    assert rig.client.answer().status == 404
    rig.over([404])


def test_nobody_to_ask(rig: Rig) -> None:
    rig.serve(topology(assets=("/assets/*",), pools=[pool("web", "blue", endpoint(0))]))
    rig.client.get("/assets/a.js")
    rig.backend().answers(NOT_FOUND)
    assert rig.client.answer().status == 404
    rig.over([404])


def test_a_second_try_with_a_stripped_prefix(rig: Rig) -> None:
    _assets(rig, routes=[Route(path="/assets", service="web", strip=True)])
    rig.client.get("/assets/assets/a.js")
    assert rig.backend().sent.startswith(b"GET /assets/a.js HTTP/1.1\r\n")
    rig.backend().answers(NOT_FOUND)
    assert rig.backend().sent.startswith(b"GET /assets/a.js HTTP/1.1\r\n")
    rig.backend().ok()
    rig.over([200])
