"""Upgrades: what becomes a tunnel, what it carries, and that it is counted."""

from __future__ import annotations

import pytest

from gateway.board import layout
from gateway.config.snapshot import Cohort, ServiceTraffic, Timeouts
from gateway.policy.override import mint
from tests.support.rig import EPOCH, Backend, Rig, service, topology, traffic

SECRET = b"0123456789abcdef0123456789abcdef"

ASK = (
    b"GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive, Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Key: abc\r\n\r\n"
)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: xyz\r\n\r\n"
)


def _open(rig: Rig, ahead: bytes = b"", behind: bytes = b"") -> Backend:
    rig.client.send(ASK + ahead)
    backend = rig.backend()
    assert backend.request.count(b"Upgrade: websocket\r\n") == 1
    assert backend.sent == b""
    backend.answers(SWITCH + behind)
    answer = rig.client.answer()
    assert answer.status == 101
    assert answer.all(b"upgrade") == [b"WebSocket"]
    assert answer.all(b"connection") == [b"Upgrade"]
    assert answer.field(b"sec-websocket-accept") == b"xyz"
    assert answer.field(b"content-length") is None
    return backend


def test_a_tunnel_carries_octets_both_ways(rig: Rig) -> None:
    backend = _open(rig)
    rig.client.send(b"\x81\x85hello")
    assert backend.take() == b"\x81\x85hello"
    backend.answers(b"\x81\x02hi")
    assert rig.client.received == b"\x81\x02hi"
    assert rig.slab(layout.S_TUNNELS) == 1
    assert rig.in_flight() == 1
    assert rig.cell(0, layout.ENDPOINT_TUNNELS) == 1
    assert rig.row(layout.ROW_IN_FLIGHT) == 1
    backend.ends()
    rig.client.ends()
    assert backend.closed
    assert rig.client.closed
    line = rig.log[0]
    assert (line["received"], line["sent"], line["color"]) == (7, 4, "blue")
    rig.over([101])


@pytest.mark.parametrize("by_token", [False, True])
def test_a_tunnel_knows_where_it_goes_and_why(rig: Rig, by_token: bool) -> None:
    weight = 0 if by_token else 10_000
    rig.serve(
        topology(number=2, cohort=Cohort(secret=SECRET)),
        traffic(ServiceTraffic(service="web", stable="blue", weight=weight), release="r-1"),
    )
    fields = ""
    if by_token:
        until = int(EPOCH) + 60
        token = mint(SECRET, host="a.example", release="r-1", side="candidate", expires=until)
        fields = f"gw_override: {token}\r\n"
    rig.client.get(fields=f"Connection: Upgrade\r\nUpgrade: websocket\r\n{fields}")
    rig.backend().answers(SWITCH)
    (tunnel,) = rig.core.tunnels
    assert (tunnel.service, tunnel.green, tunnel.override) == ("web", True, by_token)
    assert tunnel.opened == rig.core.wheel.now
    rig.over([101])


def test_octets_around_the_switch_are_carried(rig: Rig) -> None:
    backend = _open(rig, ahead=b"early", behind=b"first")
    assert backend.take() == b"early"
    assert rig.client.received == b"first"
    rig.over([101])


@pytest.mark.parametrize("first", ["client", "backend"])
def test_each_side_may_end_its_sending_alone(rig: Rig, first: str) -> None:
    backend = _open(rig)
    if first == "client":
        rig.client.ends()
        assert backend.transport.eof_sent
        backend.answers(b"still here")
        assert rig.client.received == b"still here"
        backend.ends()
    else:
        backend.ends()
        assert rig.client.transport.eof_sent
        rig.client.send(b"still here")
        assert backend.take() == b"still here"
        rig.client.ends()
    assert rig.client.closed
    assert backend.closed
    rig.over([101])


@pytest.mark.parametrize("who", ["client", "backend"])
def test_a_side_that_is_lost_ends_the_tunnel(rig: Rig, who: str) -> None:
    backend = _open(rig)
    if who == "client":
        rig.client.leaves()
    else:
        backend.resets()
    assert rig.client.closed
    assert backend.closed
    rig.at_rest()
    rig.over([101])


def test_a_client_that_ended_before_the_switch(rig: Rig) -> None:
    rig.client.send(ASK)
    rig.client.ends()
    rig.backend().answers(SWITCH)
    assert rig.backend().transport.eof_sent
    rig.backend().answers(b"bye")
    rig.backend().ends()
    assert rig.client.received.endswith(b"bye")
    assert rig.client.closed
    rig.over([101])


def test_a_silent_tunnel_ends(rig: Rig) -> None:
    rig.serve(topology(services=[service(timeouts=Timeouts(stream_idle=20.0, total=5.0))]))
    backend = _open(rig)
    rig.advance(19.0)
    rig.client.send(b"x")
    rig.advance(19.0)
    backend.answers(b"y")
    rig.advance(19.0)
    assert rig.client.open
    rig.advance(1.5)
    assert rig.client.closed
    assert backend.closed
    rig.over([101])


def test_back_pressure_in_a_tunnel(whole: Rig) -> None:
    rig = whole
    backend = _open(rig)
    rig.client.transport.stuck = True
    for _ in range(10):
        backend.answers(b"x" * 50_000)
    assert not backend.transport.is_reading()
    assert rig.client.transport.most_buffered <= 150_000
    while rig.client.transport.buffered:
        rig.client.transport.drain(30_000)
    assert backend.transport.is_reading()
    backend.transport.stuck = True
    for _ in range(10):
        rig.client.send(b"y" * 50_000)
    assert not rig.client.transport.is_reading()
    assert backend.transport.most_buffered <= 150_000
    while backend.transport.buffered:
        backend.transport.drain(30_000)
    assert rig.client.transport.is_reading()
    rig.over([101])
    line = rig.log[0]
    assert (line["received"], line["sent"]) == (500_000, 500_000)


def test_a_closed_tunnel_delivers_what_it_holds_while_it_is_read(whole: Rig) -> None:
    rig = whole
    backend = _open(rig)
    rig.client.transport.stuck = True
    backend.answers(b"x" * 50_000)
    backend.resets()
    for _ in range(5):
        rig.advance(4.5)
        assert rig.client.open
        rig.client.transport.drain(10_000)
    assert rig.client.closed
    assert not rig.client.cut
    rig.over([101])


def test_a_closed_tunnel_that_nobody_reads_is_cut(whole: Rig) -> None:
    rig = whole
    backend = _open(rig)
    rig.client.transport.stuck = True
    backend.answers(b"x" * 50_000)
    backend.ends()
    rig.client.ends()
    rig.advance(5.5)
    assert rig.client.cut
    rig.over([101])


@pytest.mark.parametrize(
    "protocol",
    [
        "h2c",
        "H2C",
        "HTTP/2.0",
        "TLS/1.0",
        "websocket, h2c",
        "h2c,websocket",
        "websocket\r\nUpgrade: h2c",
    ],
)
def test_protocols_that_walk_past_the_gateway_are_not_asked_for(rig: Rig, protocol: str) -> None:
    rig.client.get(
        fields=f"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: {protocol}\r\n"
        "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
    )
    head = rig.backend().request.lower()
    assert b"upgrade" not in head
    assert b"http2-settings" not in head
    rig.backend().ok()
    assert rig.client.answer().status == 200
    rig.over([200])


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\n\r\n",
        b"GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        (
            b"POST / HTTP/1.1\r\nHost: a.example\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
            b"Content-Length: 1\r\n\r\nx"
        ),
    ],
)
def test_what_is_no_upgrade_is_passed_on_without(rig: Rig, request_: bytes) -> None:
    rig.client.send(request_)
    assert b"upgrade" not in rig.backend().request.lower()
    rig.backend().answers(SWITCH)
    assert rig.client.answer().status == 502
    rig.over([502])


def test_another_protocol_than_was_asked_for_is_502(rig: Rig) -> None:
    rig.client.send(ASK)
    rig.backend().answers(SWITCH.replace(b"WebSocket", b"h2c"))
    assert rig.client.answer().status == 502
    assert rig.backend().cut
    rig.over([502])


def test_a_refused_upgrade_is_a_plain_answer(rig: Rig) -> None:
    rig.client.send(ASK)
    rig.backend().answers(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n")
    assert rig.client.answer().status == 426
    assert rig.client.open
    rig.client.get()
    rig.backend().ok()
    rig.over([426, 200])


def test_interim_answers_before_a_switch(rig: Rig) -> None:
    rig.client.send(ASK)
    rig.backend().answers(b"HTTP/1.1 103 Early Hints\r\n\r\n" + SWITCH)
    assert [a.status for a in rig.client.answers()] == [103, 101]
    rig.over([101])


def test_a_tunnel_that_drain_ends(rig: Rig) -> None:
    backend = _open(rig)
    rig.core.draining = True
    assert not rig.client.connection.close_when_idle()
    for tunnel in list(rig.core.tunnels):
        tunnel.close()
    rig.soon.run()
    assert rig.client.closed
    assert backend.closed
    rig.over([101])


def _goes_away(rig: Rig) -> None:
    for tunnel in list(rig.core.tunnels):
        tunnel.leave()
    rig.soon.run()


def test_a_websocket_is_told_that_the_gateway_goes_away(rig: Rig) -> None:
    backend = _open(rig)
    backend.answers(b"\x81\x02hi")
    _goes_away(rig)
    assert rig.client.received == b"\x81\x02hi\x88\x02\x03\xe9"
    # Nothing follows a close frame; the client's own reaches the backend, which ends it.
    backend.answers(b"\x81\x02ho")
    _goes_away(rig)
    assert rig.client.received == b"\x81\x02hi\x88\x02\x03\xe9"
    backend.take()
    rig.client.send(b"\x88\x82\1\2\3\4\2\xeb")
    assert backend.take() == b"\x88\x82\1\2\3\4\2\xeb"
    backend.ends()
    rig.client.ends()
    assert rig.client.closed
    rig.over([101])


def test_a_websocket_is_told_between_two_frames_alone(rig: Rig) -> None:
    backend = _open(rig, behind=b"\x81\x05he")
    _goes_away(rig)
    assert rig.client.received == b"\x81\x05he"
    backend.answers(b"ll")
    assert rig.client.received == b"\x81\x05hell"
    backend.answers(b"o\x81\x02no")
    assert rig.client.received == b"\x81\x05hello\x88\x02\x03\xe9"
    rig.client.leaves()
    rig.over([101])


@pytest.mark.parametrize("rest", [b"llo\x88\x02\x03\xe8", b"llo\x81\x01x\x88\x02\x03\xe8"])
def test_a_backend_that_says_goodbye_itself_is_not_interrupted(rig: Rig, rest: bytes) -> None:
    backend = _open(rig, behind=b"\x81\x05he")
    _goes_away(rig)
    backend.answers(rest)
    # Octet by octet it has not said it yet when the first frame ends.
    told = b"llo\x88\x02\x03\xe9" if rig.octets else rest
    assert rig.client.received == b"\x81\x05he" + told
    _goes_away(rig)
    assert rig.client.received == b"\x81\x05he" + told
    rig.client.leaves()
    rig.over([101])


def test_a_tunnel_of_another_protocol_is_just_closed(rig: Rig) -> None:
    rig.client.send(ASK.replace(b"websocket", b"other"))
    backend = rig.backend()
    backend.answers(SWITCH.replace(b"WebSocket", b"other") + b"\x81\x02hi")
    assert rig.client.answer().status == 101
    _goes_away(rig)
    assert rig.client.received == b"\x81\x02hi"
    assert rig.client.closed
    rig.over([101])
