"""More requests than a turn of the loop has time for: the rest waits in line, and none is lost."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING

import pytest

from gateway.board import layout
from gateway.config.snapshot import Route
from gateway.proxy.line import MOST, ROUND, SLICE, Line
from tests.proxy.test_proxy_tls import V12, V13, TlsClient
from tests.support.faketransport import Soon
from tests.support.rig import Client, Rig, topology

if TYPE_CHECKING:
    import ssl

#: Answered at once (404), and by a backend.
LOST = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
ASKS = b"GET /app HTTP/1.1\r\nHost: a.example\r\n\r\n"


def serve(rig: Rig) -> None:
    rig.serve(topology(routes=[Route(path="/app", service="web")]))


def read(client: Client, data: bytes) -> None:
    """Have the loop read so much, and not turn."""
    client.connection.data_received(data)


def reads(client: Client | TlsClient) -> bool:
    return client.transport.reading


def answered(client: Client | TlsClient) -> int:
    return client.received.count(b"HTTP/1.1 ")


def in_turns(rig: Rig, client: Client | TlsClient) -> list[int]:
    """Turn the loop until nothing is left to do; how many were answered by each turn."""
    seen = [answered(client)]
    while rig.core.line or not reads(client):
        rig.soon.turn()
        seen.append(answered(client))
    return seen


# --- one connection -------------------------------------------------------------------------------


def test_a_turn_of_the_loop_answers_a_few(whole: Rig) -> None:
    serve(whole)
    read(whole.client, LOST * (2 * MOST + 5))
    assert not reads(whole.client)  # which ends the loop's reading, too
    assert in_turns(whole, whole.client) == [MOST, 2 * MOST, 2 * MOST + 5]
    assert reads(whole.client)
    whole.client.get("/app")
    whole.backend().ok()
    whole.over([404] * (2 * MOST + 5) + [200])


def test_a_few_requests_wait_for_nothing(whole: Rig) -> None:
    serve(whole)
    read(whole.client, LOST * MOST)
    assert answered(whole.client) == MOST
    assert reads(whole.client)
    assert not whole.core.line
    whole.over([404] * MOST)


def test_expensive_ones_are_fewer(whole: Rig) -> None:
    """As signatures are that do not hold."""
    serve(whole)

    def clock() -> float:
        whole.now += SLICE / 16  # whoever asks for the time has taken some
        return whole.now

    whole.core.clock = clock
    read(whole.client, LOST * MOST)
    assert 0 < answered(whole.client) < MOST // 2
    assert not reads(whole.client)
    whole.soon.run()
    whole.over([404] * MOST)


def test_what_came_behind_a_backends_answer_is_bounded_too(whole: Rig) -> None:
    serve(whole)
    read(whole.client, LOST * 3 + ASKS + LOST * (MOST + 1))
    assert answered(whole.client) == 3
    assert reads(whole.client)
    whole.accept().connection.data_received(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert in_turns(whole, whole.client) == [4 + MOST, 5 + MOST]
    whole.over([404] * 3 + [204] + [404] * (MOST + 1))


def test_a_head_that_comes_in_pieces_behind_them(whole: Rig) -> None:
    serve(whole)
    read(whole.client, LOST * (MOST + 1) + ASKS[:20])
    assert in_turns(whole, whole.client) == [MOST, MOST + 1]
    whole.advance(1.0)
    whole.client.send(ASKS[20:])
    whole.backend().ok()
    whole.over([404] * (MOST + 1) + [200])


def test_content_behind_them(whole: Rig) -> None:
    serve(whole)
    body = random.Random(3).randbytes(100_000)
    post = b"POST /app HTTP/1.1\r\nHost: a.example\r\nContent-Length: 100000\r\n\r\n"
    whole.client.send(LOST * (MOST + 1) + post + body[:50_000])
    whole.client.send(body[50_000:])
    backend = whole.backend()
    assert backend.take().endswith(body)
    backend.ok()
    whole.over([404] * (MOST + 1) + [200])


def test_content_in_the_smallest_of_chunks_takes_turns(whole: Rig) -> None:
    serve(whole)
    whole.client.send(
        b"POST /app HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n"
    )

    def clock() -> float:
        whole.now += SLICE / 2  # whoever asks for the time has taken some
        return whole.now

    usual = whole.core.clock
    whole.core.clock = clock
    read(whole.client, b"1\r\nx\r\n" * 100)
    assert reads(whole.client)  # a small read is not worth a clock
    read(whole.client, b"1\r\nx\r\n" * 10_000)
    assert not reads(whole.client)
    whole.core.clock = usual
    whole.soon.run()
    assert reads(whole.client)
    whole.client.send(b"1\r\ny\r\n0\r\n\r\n")
    backend = whole.backend()
    taken = backend.take()
    assert taken.endswith(b"0\r\n\r\n")
    assert taken.count(b"x") >= 10_100
    backend.ok()
    whole.over([200])


def test_an_upgrade_behind_them(whole: Rig) -> None:
    serve(whole)
    upgrade = b"GET /app HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    whole.client.send(LOST * (2 * MOST) + upgrade + b"early")
    backend = whole.accept()
    backend.take()
    backend.answers(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    whole.client.send(b"late")
    assert backend.take() == b"earlylate"
    backend.transport.reset()
    whole.over()


# --- what ends it meanwhile -----------------------------------------------------------------------


def test_whoever_waits_in_line_is_not_too_slow(whole: Rig) -> None:
    """Every time-out passes before its turn: it has sent its requests."""
    serve(whole)
    read(whole.client, LOST * (MOST + 1))
    for _ in range(2000):
        whole.now += 0.1
        whole.core.wheel.advance(whole.now)  # and the loop does not come round
    whole.soon.run()
    assert answered(whole.client) == MOST + 1
    assert whole.client.open
    whole.advance(80.0)
    assert whole.client.closed  # now it is idle
    whole.over([404] * (MOST + 1))


def test_a_client_that_leaves_the_line(whole: Rig) -> None:
    serve(whole)
    read(whole.client, LOST * (MOST + 1))
    assert len(whole.core.line) == 1
    whole.client.leaves()
    assert not whole.core.line
    whole.over([404] * MOST)


def test_the_end_of_sending_waits_for_what_came_before_it(whole: Rig) -> None:
    serve(whole)
    read(whole.client, LOST * (MOST + 1))
    assert whole.client.connection.eof_received()
    assert whole.client.open
    whole.soon.run()
    answers = whole.client.answers()
    assert [answer.status for answer in answers] == [404] * (MOST + 1)
    assert answers[-1].field(b"connection") == b"close"
    assert whole.client.closed
    whole.over()


def test_the_end_of_sending_within_a_head(whole: Rig) -> None:
    serve(whole)
    read(whole.client, LOST * (MOST + 1) + ASKS[:20])
    assert whole.client.connection.eof_received()
    whole.soon.run()
    assert whole.client.closed
    assert [line["status"] for line in whole.log] == [404] * (MOST + 1) + [499]
    whole.over()


def test_a_drain_answers_one_more_and_says_so(whole: Rig) -> None:
    serve(whole)
    read(whole.client, LOST * (MOST + 5))
    whole.core.draining = True
    assert not whole.client.connection.close_when_idle()
    whole.soon.run()
    answers = whole.client.answers()
    assert len(answers) == MOST + 1
    assert answers[-1].field(b"connection") == b"close"
    whole.advance(6.0)
    assert whole.client.closed
    whole.over()


def test_a_client_that_does_not_read_in_line(whole: Rig) -> None:
    """Its answers fill the buffer; whoever goes on first, none is begun twice or forgotten."""
    serve(whole)
    transport = whole.client.transport
    transport.stuck = True
    whole.client.send(LOST * 3000)
    assert not reads(whole.client)
    assert transport.most_buffered < 100_000
    while transport.buffered:
        transport.drain(10_000)
    transport.stuck = False
    transport.drain()
    assert answered(whole.client) == 3000
    whole.client.get("/app")
    whole.backend().ok()
    whole.over([404] * 3000 + [200])


# --- several --------------------------------------------------------------------------------------


def test_each_gets_its_share_and_one_request_waits_for_nobody(whole: Rig) -> None:
    serve(whole)
    first, second, third = whole.connect(), whole.connect(), whole.connect()
    read(first, LOST * (3 * MOST))
    read(second, LOST * (MOST + 2))
    read(third, LOST)
    # Others are in line: the second one does not begin with as many.
    assert [answered(each) for each in (first, second, third)] == [MOST, 1, 1]
    whole.soon.turn()
    assert [answered(each) for each in (first, second, third)] == [2 * MOST, 1 + MOST, 1]
    whole.soon.run()
    assert [answered(each) for each in (first, second, third)] == [3 * MOST, MOST + 2, 1]
    whole.over()


class Clock:
    """Stands until somebody takes time."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Walker:
    """In line: takes time, comes again, or breaks."""

    def __init__(self, line: Line, clock: Clock, seconds: float = 0.0) -> None:
        self.line, self.clock, self.seconds = line, clock, seconds
        self.turns = 0
        self.broken = self.was_cut = False

    def go_on(self) -> None:
        self.clock.now += self.seconds
        self.turns += 1
        if self.broken:
            raise RuntimeError("broken")
        if self.turns < 2:
            self.line.join(self)

    def cut(self) -> None:
        self.was_cut = True


def test_a_turn_takes_a_round_at_most() -> None:
    soon = Soon()
    clock = Clock()
    line = Line(clock, soon.call)
    walkers = [Walker(line, clock, ROUND / 2.5) for _ in range(7)]
    for each in walkers:
        line.join(each)
    seen = []
    while line:
        soon.turn()
        seen.append([each.turns for each in walkers])
    assert seen[:3] == [[1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0], [2, 2, 1, 1, 1, 1, 1]]
    assert seen[-1] == [2] * 7


def test_one_that_fails_is_cut_and_costs_the_others_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    soon = Soon()
    clock = Clock()
    line = Line(clock, soon.call)
    walkers = [Walker(line, clock) for _ in range(3)]
    walkers[1].broken = True
    for each in walkers:
        line.join(each)
    soon.run()
    assert [each.turns for each in walkers] == [2, 1, 2]
    assert [each.was_cut for each in walkers] == [False, True, False]
    assert "failed" in caplog.text


@pytest.mark.parametrize("seed", range(40))
def test_whatever_comes_when_every_request_is_answered_in_its_order(whole: Rig, seed: int) -> None:
    serve(whole)
    chance = random.Random(seed)
    clients = [whole.connect() for _ in range(3)]
    wanted: list[bytes] = [b"", b"", b""]
    ahead = [b"", b"", b""]
    for _ in range(60):
        at = chance.randrange(3)
        client = clients[at]
        match chance.randrange(6):
            case 0:
                kinds = chance.choices((b"GET /", b"GET /app"), (9, 1), k=chance.randrange(80))
                wanted[at] += b"".join(b"4" if kind == b"GET /" else b"2" for kind in kinds)
                ahead[at] += b"".join(kind + LOST[5:] for kind in kinds)
            case 1 | 2 if reads(client):
                size = chance.choice((1, 50, 2000, 100_000))
                read(client, ahead[at][:size]) if ahead[at] else None
                ahead[at] = ahead[at][size:]
            case 3:
                client.transport.stuck = not client.transport.stuck
                if not client.transport.stuck:
                    client.transport.drain()
            case 4:
                whole.soon.turn()
            case 5:
                _answer_all(whole)
    for at, client in enumerate(clients):
        client.transport.stuck = False
        client.transport.drain()
        client.transport.feed(ahead[at])
    for _ in range(400):
        _answer_all(whole)
        whole.soon.run()
    for at, client in enumerate(clients):
        assert b"".join(b"%d" % (each.status // 100) for each in client.answers()) == wanted[at]
        assert reads(client)
    whole.over()


def _answer_all(rig: Rig) -> None:
    while rig.core.dials:
        rig.accept()
    for backend in rig.backends:
        if backend.open and backend.take():
            backend.ok()


# --- over TLS -------------------------------------------------------------------------------------


def _sealed(client: TlsClient, *parts: bytes) -> bytes:
    return b"".join(client.seal(part) for part in parts)


@pytest.mark.parametrize("version", [V12, V13])
@pytest.mark.parametrize("a_record", [1, 7, 200])
def test_records_in_one_read(whole: Rig, version: ssl.TLSVersion, a_record: int) -> None:
    serve(whole)
    client = TlsClient(whole, version)
    records = _sealed(client, *[LOST * a_record] * (600 // a_record))
    client.connection.data_received(records)
    assert 0 < answered(client) <= MOST * min(a_record, 7)
    assert not reads(client)
    seen = in_turns(whole, client)
    whole.soon.run()
    steps = [after - before for before, after in itertools.pairwise(seen)]
    assert max(steps) <= MOST * min(a_record, 7)
    assert answered(client) == 600 // a_record * a_record
    assert reads(client)
    client.send(ASKS)
    whole.backend().ok()
    assert answered(client) == 600 // a_record * a_record + 1
    client.transport.reset()
    whole.at_rest()


def test_records_that_take_long_are_fewer(whole: Rig) -> None:
    serve(whole)
    client = TlsClient(whole, V13)

    def clock() -> float:
        whole.now += SLICE / 16
        return whole.now

    whole.core.clock = clock
    client.connection.data_received(_sealed(client, *[LOST] * MOST))
    assert 0 < answered(client) < MOST // 2
    whole.soon.run()
    assert answered(client) == MOST
    client.transport.reset()
    whole.at_rest()


@pytest.mark.parametrize("a_record", [1, 100])
def test_the_end_of_sending_behind_many_records(whole: Rig, a_record: int) -> None:
    serve(whole)
    client = TlsClient(whole, V13)
    client.connection.data_received(_sealed(client, *[LOST * a_record] * (100 // a_record)))
    assert not reads(client)
    assert client.connection.eof_received()
    client.transport.eof_fed = True
    whole.soon.run()
    assert answered(client) == 100
    assert client.transport.lost
    whole.at_rest()


def test_a_client_that_leaves_the_line_over_tls(whole: Rig) -> None:
    serve(whole)
    client = TlsClient(whole, V13)
    client.connection.data_received(_sealed(client, *[LOST] * 100))
    assert len(whole.core.line) == 1
    client.transport.reset()
    assert not whole.core.line
    assert whole.slab(layout.S_CONNECTIONS) == 0
    whole.at_rest()
