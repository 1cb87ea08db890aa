"""A worker that is short of time itself: what it refuses, when it begins to and when it stops."""

from __future__ import annotations

import pytest

from gateway.board import layout
from gateway.proxy.pressure import CALM, Pressure
from gateway.proxy.wheel import TICK
from tests.support.faketransport import Soon
from tests.support.rig import Rig

DELAY = 0.05


class Loop:
    """The wheel's turns, as late as a test says."""

    def __init__(self) -> None:
        self.soon = Soon()
        self.pressure = Pressure(self.soon.call)
        self.pressure.delay = DELAY
        self.now = 1000.0
        self.turn(0.0)

    def turn(self, late: float) -> bool:
        self.now += TICK + late
        self.pressure.turned(self.now, TICK)
        return self.pressure.on


def test_one_late_turn_is_a_hiccup_two_are_pressure() -> None:
    loop = Loop()
    assert not loop.turn(1.0)
    assert not loop.turn(0.0)
    assert not loop.turn(0.03)
    assert loop.turn(0.03)


def test_it_is_over_after_a_second_of_calm() -> None:
    loop = Loop()
    loop.turn(1.0)
    loop.turn(1.0)
    assert all(loop.turn(0.0) for _ in range(CALM - 1))
    assert loop.turn(0.02)  # not late, not calm
    assert all(loop.turn(0.0) for _ in range(CALM - 1))
    assert not loop.turn(0.0)


def test_without_a_delay_it_is_never_on() -> None:
    loop = Loop()
    loop.pressure.delay = 0.0
    assert not any(loop.turn(1.0) for _ in range(5))


def test_a_turn_of_the_loop_takes_up_requests_for_so_long() -> None:
    loop = Loop()
    assert not loop.pressure.refuses(1.0)
    assert not loop.pressure.refuses(1.04)
    assert loop.pressure.refuses(1.06)
    loop.soon.run()
    assert not loop.pressure.refuses(1.07)


def _pressed(rig: Rig) -> None:
    """Have a turn of the loop in which there is no more time."""
    rig.core.pressure.on = True
    rig.core.pressure.delay = DELAY
    assert not rig.core.pressure.refuses(rig.now - 1.0)


def _send(rig: Rig, data: bytes) -> None:
    """Have octets read in this very turn."""
    rig.clients[-1].connection.data_received(data)


@pytest.mark.parametrize(
    ("line", "fields", "keeps"),
    [
        (b"GET / HTTP/1.1", b"", True),
        (b"HEAD / HTTP/1.1", b"", True),
        (b"GET / HTTP/1.1", b"Connection: close\r\n", False),
        (b"GET / HTTP/1.0", b"", False),
        (b"GET / HTTP/1.0", b"Connection: keep-alive\r\n", True),
    ],
)
def test_a_request_is_refused_and_the_connection_goes_on(
    rig: Rig, line: bytes, fields: bytes, keeps: bool
) -> None:
    rig.connect()
    _pressed(rig)
    _send(rig, line + b"\r\nHost: a\r\n" + fields + b"\r\n")
    rig.soon.run()
    answer = rig.client.answer()
    assert (answer.status, answer.field(b"retry-after")) == (503, b"1")
    assert answer.field(b"x-gateway-error") == b"overload"
    assert rig.client.open is keeps
    assert answer.field(b"connection") != (b"close" if keeps else b"keep-alive")
    assert rig.slab(layout.S_SHED) == 1
    assert rig.dialling == 0
    if keeps:  # the next turn has time for it
        rig.client.get()
        rig.backend().ok()
        assert rig.client.answer().status == 200
    rig.over([200] if keeps else [])


def test_pipelined_requests_are_refused_one_by_one(whole: Rig) -> None:
    whole.connect()
    _pressed(whole)
    _send(whole, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 50)
    whole.soon.run()
    assert [answer.status for answer in whole.client.answers()] == [503] * 50
    assert whole.slab(layout.S_SHED) == 50
    whole.over([])


def test_what_is_the_gateways_own_is_answered(rig: Rig) -> None:
    rig.connect()
    _pressed(rig)
    _send(rig, b"GET /.well-known/gateway/status HTTP/1.1\r\nHost: a\r\n\r\n")
    assert rig.client.answer().status == 200
    rig.over()


def test_content_is_never_taken_for_the_next_request(rig: Rig) -> None:
    rig.connect()
    _pressed(rig)
    _send(rig, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nGET ")
    rig.backend().ok()
    assert rig.client.answer().status == 200
    assert rig.slab(layout.S_SHED) == 0
    rig.over()
