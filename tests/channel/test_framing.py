from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.channel.framing import MAX_MESSAGE, ChannelError, Decoder, encode
from gateway.channel.messages import (
    PROTOCOL,
    Ack,
    Addresses,
    Apply,
    Counted,
    Drain,
    Failures,
    FromControl,
    FromWorker,
    Hello,
    RequestFailed,
    Tally,
)
from gateway.config.snapshot import (
    Endpoint,
    Pool,
    Route,
    Service,
    ServiceTraffic,
    Topology,
    Traffic,
    pack_routes,
)

HELLO = Hello(protocol=PROTOCOL, version="1.2.3", slot=1, slab=3, pid=4242, traffic=7)
ACK = Ack(number=9, error="no such color")
FAILURES = Failures(
    release="0a1b2c",
    failures=(
        RequestFailed(
            service="ivor",
            color="green",
            candidate=True,
            weight=500,
            key=12,
            metric="error",
            kind="502",
            at=1.5,
        ),
    ),
    dropped=3,
)
TALLY = Tally(
    release="0a1b2c",
    rows=(
        Counted(
            service="ivor",
            color="green",
            candidate=True,
            weight=500,
            requests=3,
            failed=1,
            timed=2,
            slow=0,
            judged=2,
            keys=(12, 2**64 - 1),
            histogram=((700, 2),),
        ),
    ),
)
APPLY = Apply(
    number=8,
    topology=Topology(
        number=8,
        services=(Service(name="ivor", row=1),),
        pools=(
            Pool(
                service="ivor",
                color="blue",
                generation=1,
                source="file",
                endpoints=(
                    Endpoint(
                        id="ivor-blue-1-0",
                        cell=0,
                        url="http://127.0.0.1:1",
                        scheme="http",
                        host="127.0.0.1",
                        port=1,
                    ),
                ),
            ),
        ),
        routes=pack_routes([Route(path="/", service="ivor")]),
    ),
    traffic=Traffic(revision=2, services=(ServiceTraffic(service="ivor", stable="blue"),)),
)
WORKERS: list[FromWorker] = [HELLO, ACK, FAILURES, TALLY]
CONTROLS: list[FromControl] = [
    APPLY,
    Addresses(names={"db.example": ("192.0.2.1", "2001:db8::1")}),
    Drain(timeout=5.0),
]


def test_messages_come_back_as_they_went() -> None:
    data = b"".join(map(encode, WORKERS))
    assert Decoder.from_worker().feed(data) == WORKERS
    data = b"".join(map(encode, CONTROLS))
    assert Decoder.from_control().feed(data) == CONTROLS


def test_messages_may_come_octet_by_octet() -> None:
    decoder = Decoder.from_control()
    data = b"".join(map(encode, CONTROLS))
    got = [message for at in range(len(data)) for message in decoder.feed(data[at : at + 1])]
    assert got == CONTROLS
    assert decoder.pending == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 400), max_size=30))
def test_where_the_bytes_are_cut_makes_no_difference(cuts: list[int]) -> None:
    data = b"".join(map(encode, CONTROLS)) * 2
    decoder = Decoder.from_control()
    got: list[FromControl] = []
    at = 0
    for cut in [*cuts, len(data)]:
        got += decoder.feed(data[at : at + cut])
        at += cut
    assert got == CONTROLS * 2


def _framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
@example(b"\x81\xa4type\xa5hello")
@example(b"\xa2\xff\xfe")
@example(b"\x91" * 3000 + b"\x01")
@example(b"\x81\xa4type\xa2\xc3\x28")
def test_any_body_is_a_message_or_a_channel_error(body: bytes) -> None:
    for decoder in (Decoder.from_worker(), Decoder.from_control()):
        with contextlib.suppress(ChannelError):
            for message in decoder.feed(_framed(body)):
                assert isinstance(message, msgspec.Struct)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_changed_octet_never_gives_another_error(data: st.DataObject) -> None:
    frame = bytearray(encode(APPLY))
    at = data.draw(st.integers(4, len(frame) - 1))
    frame[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ChannelError):
        Decoder.from_control().feed(frame)


def test_an_empty_message_is_refused() -> None:
    with pytest.raises(ChannelError, match="a message of 0 octets"):
        Decoder.from_worker().feed(b"\0\0\0\0")


def test_the_bound_holds_before_the_body_has_come() -> None:
    with pytest.raises(ChannelError, match="expected 1 to 67108864"):
        Decoder.from_worker().feed((MAX_MESSAGE + 1).to_bytes(4, "big"))
    assert Decoder.from_worker().feed(MAX_MESSAGE.to_bytes(4, "big")) == []


def test_a_message_beyond_the_bound_is_not_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.channel.framing.MAX_MESSAGE", 10)
    with pytest.raises(ChannelError, match="at most 10 octets"):
        encode(HELLO)


def test_a_message_of_the_other_direction_is_refused() -> None:
    with pytest.raises(ChannelError, match="not a message of this channel"):
        Decoder.from_worker().feed(encode(APPLY))
    with pytest.raises(ChannelError, match="not a message of this channel"):
        Decoder.from_control().feed(encode(HELLO))


def test_a_broken_decoder_stays_broken() -> None:
    decoder = Decoder.from_worker()
    with pytest.raises(ChannelError):
        decoder.feed(_framed(b"\xc1"))
    with pytest.raises(ChannelError):
        decoder.feed(encode(ACK))
    assert decoder.pending == 0


def test_a_message_is_held_only_while_it_is_not_whole() -> None:
    decoder = Decoder.from_worker()
    frame = encode(ACK)
    assert decoder.feed(frame + frame[:6]) == [ACK]
    assert decoder.pending == 6
    assert decoder.feed(memoryview(frame)[6:]) == [ACK]
    assert decoder.pending == 0
