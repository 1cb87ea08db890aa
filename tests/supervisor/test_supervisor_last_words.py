"""What must not be lost, or begun, in the moments before an exec and before an end."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.supervisor import signals, upgrade
from gateway.supervisor.ending import EXIT_FORCED, Ending, Stage
from gateway.supervisor.plan import Plan
from gateway.supervisor.upgrade import Baggage
from gateway.supervisor.upgrading import KEPT, Step, Upgrader

PLAN = Plan(listen=("x:1",), admin="x:2", workers=1, run_dir="r", config="c")


@pytest.fixture
def receiver() -> Iterator[signals.Signals]:
    before = {number: signal.getsignal(number) for number in signals.WATCHED}
    wakeup = signal.set_wakeup_fd(-1)
    made = signals.Signals()
    try:
        yield made
    finally:
        signals.let_come()
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        signals._RECEIVERS.discard(made)
        made._receiving.close()
        made._sending.close()


def test_a_signal_that_nobody_has_read_outlives_the_exec(receiver: signals.Signals) -> None:
    os.kill(os.getpid(), signal.SIGHUP)  # taken by the handler: a byte for the next read
    signals.hold()
    assert receiver.read() == []
    assert signal.SIGHUP in signal.sigpending(), "what is pending is the next program's"
    signals.let_come()
    assert receiver.read() == [signal.SIGHUP], "where the exec failed it is read after all"


def test_an_end_at_once_fills_no_seat_any_more() -> None:
    closed: list[bool] = []
    ending = Ending(PLAN, [], lambda _: None, lambda: closed.append(True))
    assert ending.begin(100.0)
    filled = [ending.filled]
    ending.at_once()
    filled.append(ending.filled)
    assert (filled, closed) == ([True, False], [True])
    ending.further(100.0)
    assert (ending.stage, ending.exit_code) == (Stage.DONE, EXIT_FORCED)


def nothing() -> Baggage:
    raise AssertionError("nothing is packed")


def test_old_workers_stay_where_the_way_back_has_failed(tmp_path: Path) -> None:
    plan = Plan(listen=("x:1",), admin="x:2", workers=1, run_dir=str(tmp_path), config="c")
    upgrader = Upgrader(plan, lambda _: None, nothing, None, fresh=True)
    assert upgrader.step is Step.IDLE
    assert upgrader.may_retire(100.0, serving=False)
    upgrader._keeping = True
    assert not upgrader.may_retire(100.0, serving=True)
    assert not upgrader.may_retire(105.0, serving=False), "something of it ended"
    assert not upgrader.may_retire(106.0, serving=True)
    assert not upgrader.may_retire(106.0 + KEPT / 2, serving=True)
    assert upgrader.may_retire(106.0 + KEPT, serving=True)
    assert upgrader.may_retire(500.0, serving=False)


@pytest.mark.parametrize("program", [{"python": 1, "root": "", "plan": ""}, "python", None, {}])
def test_a_request_of_another_shape_is_refused(tmp_path: Path, program: object) -> None:
    path = tmp_path / upgrade.REQUEST_FILE
    path.write_text(json.dumps({"id": "00000001", "program": program}))
    with pytest.raises(upgrade.UpgradeError):
        upgrade.take_request(tmp_path)
    assert not path.exists()


def test_a_program_with_a_nul_is_refused(tmp_path: Path) -> None:
    program = {"python": "/usr/bin/python\0", "root": "", "plan": ""}
    path = tmp_path / upgrade.REQUEST_FILE
    path.write_text(json.dumps({"id": "00000001", "program": program}))
    with pytest.raises(upgrade.UpgradeError):
        upgrade.take_request(tmp_path)
