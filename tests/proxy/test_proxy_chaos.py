"""Any order of events: clients and backends that do whatever they like, and time that passes.

Whatever happens, no state machine is asked for what it does not do, no answer goes to the wrong
request, none is shortened without a cut, and nothing is left behind.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.snapshot import Limits, Timeouts
from gateway.proxy.errors import Failure
from tests.support.rig import Backend, Client, Rig, read_answer, service, topology

TIMEOUTS = Timeouts(connect=1.0, first_byte=2.0, between_bytes=2.0, total=8.0, stream_idle=4.0)

#: What a client may send: whole requests, each with a number of its own to be answered by.
REQUESTS = (
    b"GET /%d HTTP/1.1\r\nHost: a.example\r\n\r\n",
    b"HEAD /%d HTTP/1.1\r\nHost: a.example\r\n\r\n",
    b"POST /%d HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /%d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"GET /%d HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET /%d HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n",
    b"GET /assets/%d HTTP/1.1\r\nHost: a.example\r\n\r\n",
    b"GET /%d HTTP/1.1\r\nHost: a.example\r\nConnection: upgrade\r\nUpgrade: w\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a.example\r\nX-Number: %d\r\n\r\n",
    b"GET /%d/../x HTTP/1.1\r\nHost: a.example\r\n\r\n",
    b"@%d\r\n\r\n",
)
#: What a backend may say to the request with that number; each body says the number again.
ANSWERS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n%08d",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n%08d\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\n%08d",
    b"HTTP/1.1 404 Not Found\r\nContent-Length: 8\r\n\r\n%08d",
    b"HTTP/1.1 103 Early Hints\r\nX-Number: %d\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nX-Number: %d\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: w\r\n\r\n%08d",
    b"HTTP/1.1 200 OK\r\nContent-Length: 80000\r\n\r\n" + b"%08d" * 1 + b"x" * 79992,
    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 8\r\n\r\n%08d",
    b"garbage %d\r\n\r\n",
)
_NUMBER = re.compile(rb"^\w+ /(?:assets/)?(\d+) ")


@dataclass(slots=True)
class Talk:
    """What a client has yet to say."""

    client: Client
    unsent: bytes = b""
    asked: list[tuple[int, bool]] = field(default_factory=list)
    left: bool = False


class Chaos:
    """A rig and what goes on around it. Every step takes a number and does what it can."""

    def __init__(self) -> None:
        self.rig = Rig()
        self.rig.serve(
            topology(
                services=[service(timeouts=TIMEOUTS, max_in_flight=4)],
                limits=Limits(
                    min_rate=0, await_body=0, header_timeout=2.0, idle_timeout=4.0, head=512
                ),
                assets=("/assets/*",),
                number=2,
            )
        )
        self.talks: list[Talk] = []
        self.saying: dict[Backend, bytes] = {}
        self.number = 0

    def connect(self, pick: int) -> None:
        if len(self.talks) < 6:
            client = self.rig.connect()
            client.transport.stuck = pick % 4 == 0
            self.talks.append(Talk(client))

    def talk(self, pick: int) -> Talk | None:
        talks = [talk for talk in self.talks if talk.client.open]
        return talks[pick % len(talks)] if talks else None

    def backend(self, pick: int) -> Backend | None:
        backends = [backend for backend in self.rig.backends if backend.open]
        return backends[pick % len(backends)] if backends else None

    def ask(self, pick: int) -> None:
        talk = self.talk(pick // 16)
        if talk is not None:
            self.number += 1
            request = REQUESTS[pick % len(REQUESTS)] % self.number
            talk.asked.append((self.number, request.startswith(b"HEAD")))
            talk.unsent += request

    def send(self, pick: int) -> None:
        talk = self.talk(pick // 16)
        if talk is not None and not talk.client.transport.eof_fed:
            count = (1, 3, 20, 1000)[pick % 4]
            data, talk.unsent = talk.unsent[:count], talk.unsent[count:]
            talk.client.send(data)

    def end(self, pick: int) -> None:
        talk = self.talk(pick // 4)
        if talk is not None and pick % 4 == 0 and not talk.client.transport.eof_fed:
            talk.client.ends()

    def leave(self, pick: int) -> None:
        talk = self.talk(pick // 4)
        if talk is not None and pick % 4 == 0:
            talk.left = True
            talk.client.leaves()

    def read(self, pick: int) -> None:
        talk = self.talk(pick // 4)
        if talk is not None:
            talk.client.transport.drain((1, 1000, 30_000, None)[pick % 4])

    def dialled(self, pick: int) -> None:
        if self.rig.dialling:
            if pick % 4 == 0:
                self.rig.refuses(Failure("connect-timeout" if pick % 8 else "connect"))
            else:
                self.rig.accept().transport.stuck = pick % 16 == 1

    def answer(self, pick: int) -> None:
        """Begin the answer to the last request that this backend has read."""
        backend = self.backend(pick // 16)
        if backend is None:
            return
        found = _NUMBER.findall(backend.sent.replace(b"\r\n\r\n", b"\n")) or re.findall(
            rb"(?:^|\r\n\r\n|hello|0\r\n)\w+ /(?:assets/)?(\d+) ", backend.sent
        )
        if found and backend not in self.saying:
            backend.take()
            self.saying[backend] = ANSWERS[pick % len(ANSWERS)] % int(found[-1])

    def say(self, pick: int) -> None:
        backend = self.backend(pick // 4)
        if backend is not None and backend in self.saying and not backend.transport.eof_fed:
            count = (1, 30, 40_000, 10**6)[pick % 4]
            data = self.saying[backend]
            if len(data) <= count:
                del self.saying[backend]
            else:
                self.saying[backend] = data[count:]
            backend.answers(data[:count])

    def back_end(self, pick: int) -> None:
        backend = self.backend(pick // 4)
        if backend is None:
            return
        if pick % 4 == 0:
            backend.resets()
        elif pick % 4 == 1:
            backend.transport.drain(None)
        elif not backend.transport.eof_fed:
            backend.ends()

    def wait(self, pick: int) -> None:
        self.rig.advance((0.1, 0.5, 1.0, 3.0)[pick % 4])

    def finish(self) -> None:
        for talk in self.talks:
            self.check(talk)
        self.rig.over()

    @staticmethod
    def check(talk: Talk) -> None:
        """Assert that what this client has read are its own answers, in order and whole."""
        transport = talk.client.transport
        data = bytes(transport.sent)
        ended = not transport.aborted and (transport.lost or transport.eof_sent)
        asked = list(talk.asked)
        while data and asked:
            number, to_head = asked[0]
            try:
                answer, rest = read_answer(data, to_head=to_head, ended=ended)
                if rest.startswith(b"{"):
                    # A head that never came whole was not known to be HEAD's.
                    answer, rest = read_answer(data)
            except AssertionError:
                # Cut, or not over yet: nothing may follow it.
                assert talk.left or transport.aborted or not transport.lost
                return
            data = rest
            if answer.status == 101:
                assert data.startswith(b"%08d" % number) or not data or len(data) < 8
                return
            if answer.status >= 200:
                asked.pop(0)
            told = answer.field(b"x-number")
            if told is not None:
                assert int(told) == number
            if answer.status < 500 and answer.body[:8].isdigit():
                assert int(answer.body[:8]) == number
        assert not data or not asked


STEPS = (
    *("connect", "end", "leave", "back_end", "wait"),
    *("read",) * 2,
    *("dialled",) * 3,
    *("ask", "send") * 4,
    *("answer",) * 5,
    *("say",) * 7,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 2**16)), min_size=5, max_size=120))
def test_anything_may_happen(steps: list[tuple[str, int]]) -> None:
    chaos = Chaos()
    try:
        for step, pick in (("connect", 1), ("ask", 0), ("send", 3), *steps):
            getattr(chaos, step)(pick)
        chaos.finish()
    finally:
        chaos.rig.close()
