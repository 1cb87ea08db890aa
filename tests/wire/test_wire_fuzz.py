"""Any octets in any cut give a head, None, or WireError: never another exception.

And the same outcome whether the modules are compiled or not.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire import body, head
from tests.wire import corpus, shapes
from tests.wire.reading import Kind, Refused, cut_at, decode_cut, read_cut, read_whole
from tests.wire.shapes import edited

ROOT = Path(__file__).parents[2]
KINDS: tuple[Kind, ...] = get_args(Kind)

_OCTETS = st.binary(max_size=200) | st.lists(
    st.sampled_from((*shapes.PIECES, *shapes.LINES, *shapes.STATUS_LINES, *shapes.BODIES)),
    max_size=12,
).map(b"".join)
_PLACES = st.lists(st.integers(0, 1000), max_size=12)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(KINDS), _OCTETS, _PLACES)
def test_a_head_is_read_refused_or_incomplete(kind: Kind, data: bytes, places: list[int]) -> None:
    """``read_whole`` lets nothing pass but WireError."""
    # A connection parses when a line has ended: what lies behind the last one is not looked at yet.
    data = data[: data.rfind(b"\n") + 1]
    assert read_cut(kind, cut_at(data, places)) == (read_whole(kind, data) if data else None)


@settings(max_examples=500, deadline=None)
@given(_OCTETS, _PLACES)
def test_a_body_is_decoded_or_refused(data: bytes, places: list[int]) -> None:
    data = data[: data.rfind(b"\n") + 1]
    assert decode_cut(cut_at(data, places)) == decode_cut([data])


def test_every_octet_in_every_place() -> None:
    """A short request, answer, trailer section and body, each octet of each in turn any of 256."""
    for kind, data in (
        ("request", b"GET /a HTTP/1.1\r\nHost: a\r\nA:b\r\n\r\n"),
        ("response", b"HTTP/1.1 200 OK\r\nA:b\r\n\r\n"),
        ("trailers", b"A:b\r\n\r\n"),
        (None, b"1;a\r\nx\r\n0\r\nA:b\r\n\r\n"),
    ):
        for at in range(len(data)):
            for octet in range(256):
                changed = data[:at] + bytes((octet,)) + data[at + 1 :]
                if kind is None:
                    decode_cut([changed])
                else:
                    read_whole(kind, changed)  # type: ignore[arg-type]  # one of KINDS


def test_heads_that_grow_without_end() -> None:
    """No store beyond the arrays, whatever the number of fields and wherever it stops."""
    for count in (*range(head.MAX_FIELDS - 2, head.MAX_FIELDS + 3), 1000, 20_000):
        data = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"Via:\r\n" * (count - 1)
        cut = read_whole("request", data)
        whole = read_whole("request", data + b"\r\n")
        if count > head.MAX_FIELDS:
            assert isinstance(cut, Refused)
            assert isinstance(whole, Refused)
            assert (whole.kind, whole.status) == ("too-many-fields", 431)
        else:
            assert cut is None
            assert whole is not None


def test_a_bounded_loop_of_chance() -> None:
    chance = random.Random(7230)
    for _ in range(1500):
        data = edited(
            b"".join(chance.choices((*shapes.LINES, *shapes.PIECES, *shapes.STATUS_LINES), k=8)),
            [(chance.choice(shapes.EDITS), chance.randrange(1000), chance.randbytes(2))] * 3,
        )
        places = [chance.randrange(1000) for _ in range(6)]
        for kind in KINDS:
            read_cut(kind, cut_at(data, places))
        decode_cut(cut_at(data, places))


# --- compiled and plain ---------------------------------------------------------------------------


def test_the_corpus_has_something_of_everything() -> None:
    counts = corpus.summary(corpus.cases())
    assert counts["Read"] > corpus.CASES // 6
    assert counts["Decoded"] > corpus.CASES // 12
    for kind in (
        "bare-cr",
        "bad-field-name",
        "bad-field-value",
        "bad-request-line",
        "bad-target",
        "bad-version",
        "bad-status",
        "bad-host",
        "bad-content-length",
        "bad-transfer-encoding",
        "ambiguous-length",
        "bad-expect",
        "too-many-fields",
        "unsupported-version",
        "bad-chunk",
        "bad-chunk-size",
        "bad-chunk-extension",
    ):
        assert counts[kind], (kind, counts)


def test_compiled_and_plain_make_the_same_of_the_corpus() -> None:
    for module in (head, body):
        if not str(module.__file__).endswith((".so", ".pyd")):
            pytest.skip("the wire modules are not compiled here: there is nothing to compare")
    run = subprocess.run(
        [sys.executable, "-m", "tests.wire.corpus"],
        cwd=ROOT,
        env={**os.environ, "GATEWAY_NO_COMPILED": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    form, *digests = run.stdout.split()
    assert form == "plain"
    made = corpus.cases()
    assert len(digests) == len(made)
    unlike = [
        case for case, digest in zip(made, digests, strict=True) if corpus.digest(case) != digest
    ]
    assert not unlike
