"""Where WebSocket frames end, however the octets are cut."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.websocket import GOING_AWAY, Frames


def frame(payload: bytes, code: int = 1, *, masked: bool = False, fin: bool = True) -> bytes:
    first = code | (0x80 if fin else 0)
    mask = 0x80 if masked else 0
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", first, mask | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, mask | 126, size)
    else:
        head = struct.pack("!BBQ", first, mask | 127, size)
    return head + (b"\1\2\3\4" if masked else b"") + payload


PAYLOADS = st.one_of(
    st.binary(max_size=130),
    st.integers(120, 400).map(bytes),
    st.just(bytes(65535)),
    st.just(bytes(70000)),
)


@given(
    payloads=st.lists(PAYLOADS, max_size=5),
    masked=st.booleans(),
    cuts=st.lists(st.integers(0, 1 << 18), max_size=12),
)
def test_ends_are_found_however_it_is_cut(
    payloads: list[bytes], masked: bool, cuts: list[int]
) -> None:
    whole = [frame(payload, 2, masked=masked) for payload in payloads]
    data = b"".join(whole)
    ends, at = {0}, 0
    for each in whole:
        at += len(each)
        ends.add(at)
    frames, at = Frames(), 0
    places = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    for place in places:
        told = frames.feed(data[at:place])
        inside = [end - at for end in sorted(ends) if at < end <= place]
        assert told == (inside[0] if inside else -1)
        at = place
        assert frames.between == (place in ends)
    assert not frames.closing
    assert not frames.broken


def test_octet_by_octet() -> None:
    data = frame(b"x" * 300) + frame(b"") + frame(b"ab", masked=True)
    frames = Frames()
    ends = [at + 1 for at in range(len(data)) if frames.feed(data[at : at + 1]) == 1]
    assert ends == [304, 306, len(data)]


def fed(*parts: bytes) -> Frames:
    frames = Frames()
    for part in parts:
        frames.feed(part)
    return frames


def test_a_close_frame_is_seen_from_its_head_on() -> None:
    frames = fed(frame(b"hello") + GOING_AWAY[:1])
    assert (frames.closing, frames.between) == (False, False)
    frames = fed(frame(b"hello"), GOING_AWAY[:1], GOING_AWAY[1:2])
    assert (frames.closing, frames.between) == (True, False)
    frames = fed(frame(b"hello"), GOING_AWAY)
    assert (frames.closing, frames.between) == (True, True)


def test_what_is_no_websocket_has_no_place_between_frames() -> None:
    assert Frames().between
    frames = fed(b"\x82\x7f" + b"\xff" * 20)
    assert (frames.broken, frames.between) == (True, False)
    assert frames.feed(b"anything") == -1


def test_the_longest_length_is_a_length() -> None:
    frames = Frames()
    assert frames.feed(b"\x82\x7f\x7f" + b"\xff" * 7 + b"abc") == -1
    assert not frames.broken
    assert not frames.between
