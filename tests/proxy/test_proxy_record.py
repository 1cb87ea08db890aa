"""The log's line against orjson, and what is counted."""

from __future__ import annotations

from array import array
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.board import layout
from gateway.proxy.logline import MAX_LINE, escaped
from gateway.proxy.record import MAX_VALUE, Outcome, Recorder
from gateway.wire.head import Head, parse_request

BOUNDS = layout.BOUNDS_MS


class Log:
    def __init__(self, wall: float = 1_700_000_000.25) -> None:
        self.words = memoryview(array("Q", bytes(layout.board_bytes(1))))
        self.lines: list[bytes] = []
        self.recorder = Recorder(
            self.words, 0, 1, lambda: wall, lambda second: f"<{second}>", self.lines.append
        )

    def record(self, **values: Any) -> dict[str, Any]:
        self.recorder.record(outcome(**values))
        line = self.lines[-1]
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        parsed = orjson.loads(line)
        assert isinstance(parsed, dict)
        return parsed

    def side(self, row: int = 1, side: int = 0) -> int:
        at = layout.slab_at(0) + layout.ROWS_AT + row * layout.ROW_WORDS
        return at + side * layout.SIDE_WORDS

    def histogram(self, word: int, row: int = 1, side: int = 0) -> list[int]:
        at = self.side(row, side) + word
        return list(self.words[at : at + layout.HISTOGRAM_WORDS])


def outcome(**values: Any) -> Outcome:
    given: dict[str, Any] = {
        "head": None, "method": b"GET", "host": b"a.example", "target": b"/", "client": "192.0.2.1",
        "status": 200, "received": 0, "sent": 0, "started": 10.0, "forwarded_at": 10.0,
        "answered_at": 0.0, "ended": 10.0, "service": "web", "row": 1, "side": 0,
        "endpoint": "web-blue-1-0", "request_id": b"0" * 32, "trace": b"", "weight": 0, "key": b"",
        "override": False, "first": None, "error": "", "served_by": "", "tunnel": False,
    }  # fmt: skip
    given.update(values)
    made = Outcome()
    made.fill(**given)
    return made


@given(st.binary(max_size=80))
def test_any_octets_are_escaped_as_orjson_reads_them(value: bytes) -> None:
    assert orjson.loads('"' + escaped(value) + '"') == value.decode("utf-8", "replace")


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
def test_any_text_is_escaped_as_orjson_reads_it(value: str) -> None:
    assert orjson.loads('"' + escaped(value.encode()) + '"') == value


def test_every_octet_alone() -> None:
    for octet in range(256):
        value = bytes([octet])
        assert orjson.loads('"' + escaped(value) + '"') == value.decode("utf-8", "replace")


@pytest.mark.parametrize(
    "value",
    ["\x7f", "\x9b31m", "\x85next line", "\u2028", "\u202eright to left", "\U000e0041", "\ufeff"],
)
def test_nothing_in_a_line_moves_the_terminal_that_shows_it(value: str) -> None:
    """C1 controls, ends of line of Unicode's, directions, tags: whoever reads the log sees them."""
    written = escaped(value.encode())
    assert written.isprintable()
    assert len(written.splitlines()) == 1
    assert orjson.loads(f'"{written}"') == value


#: What may stand in a field's value, and in a target, once a head was parsed.
_value = st.lists(st.sampled_from([*range(0x20, 0x7F), *range(0x80, 0x100), 9]), max_size=900)
_target = st.lists(st.sampled_from([*range(0x21, 0x7F)]), max_size=2000)


def _head(referer: bytes, agent: bytes) -> Head:
    data = b"GET / HTTP/1.1\r\nHost: a\r\nReferer: " + referer + b"\r\nUser-Agent: " + agent
    head = parse_request(data + b"\r\n\r\n")
    assert head is not None
    return head


@given(_value, _value, _target, st.binary(max_size=32))
def test_a_line_is_what_orjson_reads(
    referer: list[int], agent: list[int], target: list[int], method: bytes
) -> None:
    log = Log()
    head = _head(bytes(referer), bytes(agent))
    line = log.record(head=head, target=bytes(target), method=method)
    assert len(log.lines[0]) <= MAX_LINE
    assert line["method"] == method.decode("utf-8", "replace")
    room = MAX_VALUE if len(line["target"]) > 256 or len(target) <= 256 else MAX_VALUE // 4
    assert line["target"] == bytes(target)[: 2 * room].decode()
    for name, value in (("referer", referer), ("user_agent", agent)):
        sent = bytes(value).strip(b" \t")
        assert line[name] in {
            sent[:MAX_VALUE].decode("utf-8", "replace"),
            sent[: MAX_VALUE // 4].decode("utf-8", "replace"),
        }


def test_the_longest_line_fits_one_write_to_a_pipe() -> None:
    log = Log()
    log.record(
        head=_head(b"\xff" * 4000, b"\xff" * 4000),
        target=b"\\" * 4000,
        method=b"!" * 32,
        host=b"h" * 253,
        request_id=b'"' * 128,
        service="s" * 63,
        endpoint="e" * 80,
        client="2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
        received=2**62,
        sent=2**62,
        key=b"0" * 16,
        weight=10000,
        override=True,
        first="first-byte-timeout",
        error="first-byte-timeout",
        served_by="rescue",
        answered_at=11.0,
        trace=b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01",
    )
    assert len(log.lines[0]) <= MAX_LINE


def test_all_that_a_line_says() -> None:
    log = Log()
    line = log.record(
        head=_head(b"https://b.example/", b"curl/8"),
        method=b"POST",
        target=b"/a?b",
        status=502,
        received=5,
        sent=7,
        started=10.0,
        forwarded_at=10.5,
        answered_at=11.001,
        ended=12.0345,
        side=3,
        trace=b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01",
        weight=500,
        key=b"0123456789abcdef",
        override=True,
        first="reset",
        error="reset",
        served_by="rescue",
    )
    assert line == {
        "time": "<1700000000>.250Z",
        "client": "192.0.2.1",
        "method": "POST",
        "host": "a.example",
        "target": "/a?b",
        "status": 502,
        "received": 5,
        "sent": 7,
        "duration_ms": pytest.approx(2034.5, abs=0.001),
        "service": "web",
        "color": "green",
        "role": "candidate",
        "request_id": "0" * 32,
        "trace": "a" * 32,
        "upstream_ms": pytest.approx(501.0, abs=0.001),
        "endpoint": "web-blue-1-0",
        "weight": 500,
        "key": "0123456789abcdef",
        "override": True,
        "first": "reset",
        "error": "reset",
        "served_by": "rescue",
        "referer": "https://b.example/",
        "user_agent": "curl/8",
    }


@pytest.mark.parametrize(
    ("side", "color", "role"),
    [
        (-1, "", ""),
        (0, "blue", "stable"),
        (1, "green", "stable"),
        (2, "blue", "candidate"),
        (3, "green", "candidate"),
    ],
)
def test_sides(side: int, color: str, role: str) -> None:
    log = Log()
    line = log.record(side=side)
    assert (line["color"], line["role"]) == (color, role)
    assert sum(log.words[log.side(1, max(side, 0)) :][: layout.SIDE_REQUEST_SECONDS]) == 1


@pytest.mark.parametrize(
    ("status", "place"),
    [(101, 0), (200, 1), (302, 2), (404, 3), (499, 5), (500, 4), (599, 4), (0, 5), (600, 5)],
)
@pytest.mark.parametrize("method", range(len(layout.METHODS)))
def test_requests_are_counted_by_method_and_class(status: int, place: int, method: int) -> None:
    log = Log()
    name = layout.METHODS[method]
    log.record(status=status, method=name.encode() if name != "other" else b"BREW")
    counts = log.words[log.side() : log.side() + layout.SIDE_REQUEST_SECONDS]
    assert [at for at, count in enumerate(counts) if count] == [
        method * len(layout.CODE_CLASSES) + place
    ]


@pytest.mark.parametrize("bucket", range(len(BOUNDS) + 1))
def test_histogram_buckets(bucket: int) -> None:
    """A bound belongs to its own bucket; the next microsecond to the next one."""
    log = Log()
    micros = BOUNDS[bucket] * 1000 if bucket < len(BOUNDS) else BOUNDS[-1] * 1000 + 1
    lowest = BOUNDS[bucket - 1] * 1000 + 1 if bucket else 0
    for value in {lowest, micros}:
        # Half a microsecond more: seconds as floats are cut off.
        log.record(started=0.0, ended=(value + 0.5) / 1e6)
    counts = log.histogram(layout.SIDE_REQUEST_SECONDS)
    assert [at for at, n in enumerate(counts[:-1]) if n] == [bucket]
    assert counts[-1] == sum({lowest, micros})


def test_a_clock_that_stands_still_or_goes_back_counts_as_nothing() -> None:
    log = Log()
    assert log.record(started=10.0, ended=9.0)["duration_ms"] == 0
    assert log.histogram(layout.SIDE_REQUEST_SECONDS)[0] == 1


def test_the_backends_time_is_counted_where_it_answered() -> None:
    log = Log()
    assert "upstream_ms" not in log.record()
    log.record(forwarded_at=10.0, answered_at=10.0035)
    counts = log.histogram(layout.SIDE_UPSTREAM_SECONDS)
    assert sum(counts[:-1]) == 1
    assert counts[2] == 1


def test_a_tunnels_life_is_no_requests_time() -> None:
    log = Log()
    log.record(tunnel=True, started=0.0, ended=1000.0)
    assert sum(log.histogram(layout.SIDE_REQUEST_SECONDS)) == 0


def test_without_a_log_it_still_counts() -> None:
    log = Log()
    log.recorder.log_to(None)
    log.recorder.record(outcome())
    assert not log.lines
    assert sum(log.words[log.side() :][: layout.SIDE_REQUEST_SECONDS]) == 1


def test_the_machines_limit_counts_all_workers() -> None:
    words = memoryview(array("Q", bytes(layout.board_bytes(3))))
    recorders = [Recorder(words, slab, 3, lambda: 0.0, str, None) for slab in range(3)]
    assert all(recorder.enter(5, 3) for recorder in recorders)
    assert not any(recorder.enter(5, 3) for recorder in recorders)
    assert recorders[0].enter(6, 3)
    recorders[1].leave(5)
    assert recorders[0].enter(5, 3)
    assert words[layout.slab_at(0) + layout.S_IN_FLIGHT] == 3
    assert words[layout.slab_at(1) + layout.S_IN_FLIGHT] == 0
