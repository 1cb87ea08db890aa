"""The gateway's own integration checks: the color that one names answers, or nobody does."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.board import layout
from gateway.config.snapshot import COLORS, Cohort, Color, Rescue, Route, ServiceTraffic
from gateway.policy.override import mint, mint_probe
from gateway.proxy.platform import INTERVAL
from tests.support.rig import EPOCH, Rig, endpoint, pool, service, topology, traffic

SECRET = b"a secret of control's own"
TESTERS = b"0123456789abcdef0123456789abcdef"


def _serve(
    rig: Rig,
    weight: int = 0,
    stable: Color = "blue",
    closed: tuple[Color, ...] = (),
    **more: object,
) -> None:
    more = {"cohort": Cohort(probe_secret=SECRET), **more}
    rig.serve(
        topology(number=2, **more),  # type: ignore[arg-type]
        traffic(
            ServiceTraffic(service="web", stable=stable, weight=weight, closed=closed),
            release="r-1",
        ),
    )


def _field(color: Color, secret: bytes = SECRET, expires: int = int(EPOCH) + 30) -> str:
    return f"gw_override: {mint_probe(secret, color, expires)}\r\n"


@pytest.mark.parametrize("stable", ["blue", "green"])
@pytest.mark.parametrize("color", ["blue", "green"])
@pytest.mark.parametrize("weight", [0, 10_000])
def test_a_check_reaches_its_color_at_any_weight(
    rig: Rig, stable: Color, color: Color, weight: int
) -> None:
    _serve(rig, weight, stable)
    rig.client.get(fields=_field(color))
    backend = rig.backend()
    assert backend.fields[b"x-release-color"] == color.encode()
    assert b"override" not in backend.sent
    backend.ok()
    answer = rig.client.answer()
    assert answer.field(b"set-cookie") is None
    assert rig.log[0]["override"] is True
    assert rig.log[0]["color"] == color
    rig.over([200])


@pytest.mark.parametrize(
    ("checked", "weight", "health", "reached"),
    [
        ("shop", 0, layout.UP, b"green"),
        ("shop", 0, layout.UNKNOWN, b"green"),
        ("shop", 0, layout.DOWN, b"blue"),  # a slot that serves nobody is in nobody's way
        ("shop", 1, layout.DOWN, b"green"),  # visitors are sent there, too
        ("web", 0, layout.DOWN, b"green"),  # it is the one that is checked
    ],
)
def test_another_service_answers_by_the_color_only_where_it_could(
    rig: Rig, checked: str, weight: int, health: int, reached: bytes
) -> None:
    _serve(rig, weight)
    rig.words[layout.cell_at(1) + layout.CELL_HEALTH] = health
    token = mint_probe(SECRET, "green", int(EPOCH) + 30, checked)
    rig.client.get(fields=f"gw_override: {token}\r\n")
    backend = rig.backend()
    assert backend.fields[b"x-release-color"] == reached
    backend.ok()
    assert rig.log[0]["override"] is True
    rig.over([200])


def test_another_services_closed_color_is_not_asked(rig: Rig) -> None:
    _serve(rig, closed=("green",))
    token = mint_probe(SECRET, "green", int(EPOCH) + 30, "shop")
    rig.client.get(fields=f"gw_override: {token}\r\n")
    assert rig.backend().fields[b"x-release-color"] == b"blue"
    rig.backend().ok()
    rig.over([200])


def test_a_check_asks_the_backend_and_not_the_cache(rig: Rig, tmp_path: Path) -> None:
    rig.caches(tmp_path)
    _serve(rig, routes=[Route(path="/", service="web", cache=True)])
    for body in (b"for all", b"for checks"):
        rig.client.get(fields=_field("blue") if body == b"for checks" else "")
        rig.backend().ok(body, "Cache-Control: max-age=60\r\n")
        assert rig.client.answer().body == body
    rig.client.get()
    assert rig.client.answer().body == b"for all"
    rig.over([200, 200, 200])


@pytest.mark.parametrize(
    "field",
    [
        _field("green", b"another secret, long enough"),
        _field("green", expires=int(EPOCH)),
        _field("green")[:-3] + "\r\n",
        "gw_override: p.green\r\n",
        "gw_override: p.green.99999999999.\r\n",
        "gw_override: \r\n",
    ],
)
def test_what_does_not_hold_forces_nothing(rig: Rig, field: str) -> None:
    _serve(rig)
    rig.client.get(fields=field)
    assert rig.backend().fields[b"x-release-color"] == b"blue"
    rig.backend().ok()
    assert "override" not in rig.log[0]
    rig.over([200])


def test_a_testers_token_still_works_beside_it(rig: Rig) -> None:
    _serve(rig, cohort=Cohort(probe_secret=SECRET, secret=TESTERS))
    token = mint(
        TESTERS, host="a.example", release="r-1", side="candidate", expires=int(EPOCH) + 60
    )
    rig.client.get(fields=f"gw_override: {token}\r\n")
    assert rig.backend().fields[b"x-release-color"] == b"green"
    rig.backend().ok()
    rig.over([200])


def test_without_a_secret_there_are_no_checks(rig: Rig) -> None:
    _serve(rig, cohort=Cohort())
    rig.client.get(fields=_field("green"))
    assert rig.backend().fields[b"x-release-color"] == b"blue"
    rig.backend().ok()
    rig.over([200])


def test_a_forced_rollback_does_not_hide_the_candidate_from_checks(rig: Rig) -> None:
    _serve(rig)
    rig.core.forced_stable = True
    rig.client.get(fields=_field("green"))
    assert rig.backend().fields[b"x-release-color"] == b"green"
    rig.backend().ok()
    rig.core.forced_stable = False
    rig.over([200])


def test_stable_does_not_answer_for_a_candidate_that_is_checked(rig: Rig) -> None:
    again = Rescue(on=("connect", "reset", "timeout", "5xx"), methods=("GET", "HEAD"))
    _serve(rig, 10_000, services=[service(rescue=again)])
    rig.client.get()
    rig.backend().answers(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
    assert rig.backend().fields[b"x-release-color"] == b"blue", "a visitor is rescued"
    rig.backend().ok()
    assert rig.client.answer().field(b"x-gateway-served-by") == b"rescue"
    rig.client.get(fields=_field("green"))
    rig.backend().answers(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
    answer = rig.client.answer()
    assert (answer.status, answer.field(b"x-gateway-served-by")) == (500, None)


def test_a_candidate_that_refuses_is_the_gateways_error(rig: Rig) -> None:
    again = Rescue(on=("connect",), methods=("GET",))
    _serve(rig, services=[service(rescue=again)])
    rig.client.get(fields=_field("green"))
    rig.refuses()
    answer = rig.client.answer()
    assert answer.status == 502
    assert answer.field(b"x-gateway-error")
    assert rig.dialling == 0


def test_a_closed_or_empty_color_is_told_as_such(rig: Rig) -> None:
    _serve(rig, closed=("green",))
    rig.client.get(fields=_field("green"))
    answer = rig.client.answer()
    assert (answer.status, answer.field(b"x-gateway-error")) == (503, b"no-endpoint")
    _serve(rig, pools=[pool("web", "blue", endpoint(0))])
    rig.client.get(fields=_field("green"))
    assert rig.client.answer().field(b"x-gateway-error") == b"no-endpoint"


def test_an_asset_is_not_asked_of_the_other_color(rig: Rig) -> None:
    _serve(rig, assets=("/assets/*",))
    rig.client.get("/assets/a.js", _field("green"))
    rig.backend().answers(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
    assert rig.client.answer().status == 404
    assert rig.dialling == 0
    rig.over([404])


def test_maintenance_keeps_visitors_away_and_no_checks(rig: Rig) -> None:
    rig.serve(
        topology(number=2, cohort=Cohort(probe_secret=SECRET)),
        traffic(ServiceTraffic(service="web", stable="blue", maintenance=60.0)),
    )
    rig.client.get()
    assert rig.client.answer().field(b"x-gateway-error") == b"maintenance"
    for color in COLORS:
        rig.client.get(fields=_field(color))
        assert rig.backend().fields[b"x-release-color"] == color.encode()
        rig.backend().ok()
        assert rig.client.answer().status == 200


def test_a_check_that_writes_is_let_through_in_read_only_mode(rig: Rig) -> None:
    """A service that is down would never come back by it otherwise."""
    _serve(rig, services=[service(critical=True)])
    for cell in (0, 1):
        rig.words[layout.cell_at(cell) + layout.CELL_HEALTH] = layout.DOWN
    rig.advance(INTERVAL + 0.1)
    post = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n{}\r\n"
    rig.connect().send(post.format("").encode())
    assert rig.client.answer().field(b"x-gateway-error") == b"read-only"
    rig.connect().send(post.format(_field("green", expires=int(EPOCH) + 3600)).encode())
    assert rig.backend().fields[b"x-release-color"] == b"green"
    rig.backend().ok()
    assert rig.client.answer().status == 200


def test_a_check_is_not_shed_and_does_not_wait(rig: Rig) -> None:
    """How busy a service is says nothing of a color's health."""
    _serve(rig, services=[service(max_in_flight=1, queue_length=1)])
    rig.connect().get()
    rig.connect().get()
    assert rig.connect().get().answer().status == 503
    rig.connect().get(fields=_field("green"))
    assert rig.row(layout.ROW_WAITING) == 1
    assert rig.row(layout.ROW_IN_FLIGHT) == 2
    rig.accept()
    rig.accept().ok()
    assert rig.client.answer().status == 200
    for client in rig.clients:
        client.leaves()
    rig.over()
