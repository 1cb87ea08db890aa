"""Overload, in short: three times what the backend can do. ``python -m loadtests.overload`` is the
whole of it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.overload import (
    Line,
    Offered,
    OpenLoad,
    Setting,
    Verdict,
    begin,
    offer,
    run,
)
from tests.support.upstream import Upstream, always

#: Slow enough that a busy machine's stalls do not count: 160 requests a second.
SLOW = Setting(hands=16, seconds=0.1)
FACTORS = (0.2, 1.0, 3.0)


def line(factor: float, goodput: float, p99: float, unwell: int = 0) -> Line:
    load = Offered(
        offered=1.0, goodput=goodput, p50_ms=1.0, p99_ms=p99, shed=0, served=1, shed_p99_ms=0.0,
        errors=0, lag_p99_ms=0.0, connections=1,
    )  # fmt: skip
    return Line(factor, load, 1.0, unwell)


@pytest.mark.parametrize(
    ("last", "held"),
    [
        (line(3.0, 81.0, 49.0), True),
        (line(3.0, 79.0, 49.0), False),
        (line(3.0, 81.0, 51.0), False),
        (line(3.0, 81.0, 49.0, unwell=1), False),
    ],
)
def test_what_holds(last: Line, held: bool) -> None:
    assert Verdict((line(0.1, 10.0, 10.0), line(1.0, 100.0, 20.0), last)).held is held


def test_requests_are_due_at_the_rate_whatever_becomes_of_them() -> None:
    with Upstream(always(b"ok")) as upstream:
        load = OpenLoad(upstream.port, 200.0, 1.0)
        found = load.sums()
    assert load.dues == sorted(load.dues)
    assert 140 < load.total < 260
    assert found.served > 0
    assert (found.errors, found.shed) == (0, 0)


@pytest.mark.slow
def test_at_three_times_the_saturation(tmp_path: Path) -> None:
    setting = Setting(hands=SLOW.hands, seconds=SLOW.seconds, workers=2)
    running = begin(tmp_path, setting)
    try:
        offer(running.port, setting.capacity / 2, 0.5)  # connections to the backend come to be
        # Twice at most: somebody else's burst on this machine is not the gateway's.
        verdicts = [run(running, setting.capacity, 3.0, FACTORS)]
        if not verdicts[0].held:
            verdicts.append(run(running, setting.capacity, 3.0, FACTORS))
    finally:
        running.stop()
    assert any(each.held for each in verdicts), verdicts
    most = verdicts[-1].lines[-1].load
    assert most.shed > most.served  # else it was no overload
    assert most.errors == 0
