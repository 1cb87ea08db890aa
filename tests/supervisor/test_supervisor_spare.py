"""The worker in reserve: when there is one, and what becomes of it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.channel import spare as channel
from gateway.supervisor.children import Started
from gateway.supervisor.plan import Plan
from gateway.supervisor.spare import CALM, Spare, Timing
from gateway.supervisor.watch import FIRST_DELAY, LONGEST_DELAY
from tests.supervisor.supervised import FAKE, Gateway, alive, fake, until

# --- when: pure, with a clock of the test's own ---------------------------------------------------


def test_it_is_started_once_all_have_served_for_a_while() -> None:
    timing = Timing()
    assert not timing.due(100.0, calm=True)
    assert not timing.due(100.0 + CALM / 2, calm=True)
    assert timing.due(100.0 + CALM, calm=True)
    assert timing.due(200.0, calm=True)


def test_unrest_has_the_wait_begin_anew() -> None:
    timing = Timing()
    timing.due(100.0, calm=True)
    assert not timing.due(100.0 + CALM, calm=False)
    assert not timing.due(100.1 + CALM, calm=True)
    assert timing.due(100.1 + 2 * CALM, calm=True)


def test_one_that_dies_again_and_again_is_tried_less_and_less_often() -> None:
    timing = Timing()
    now, waits = 100.0, []
    timing.due(now, calm=True)
    for _ in range(9):
        timing.died(now, 0.1, was_loaded=False)
        began = now
        while not timing.due(now, calm=True):
            now += 0.01
        waits.append(round(now - began, 1))
    assert waits == [0.5, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, LONGEST_DELAY, LONGEST_DELAY]
    timing.died(now, 3600.0, was_loaded=True)
    assert timing.due(now + 1.1 * FIRST_DELAY, calm=True)


def test_there_is_none_where_the_plan_wants_none(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(listen=("x:1",), admin="x:2", workers=1, run_dir="r", config="c", spare=False)

    def no_process(*_: object) -> Started:
        raise AssertionError("a process is started")

    monkeypatch.setattr("gateway.supervisor.spare.Started", no_process)
    for wanted in (False, True):
        spare = Spare(replace(plan, spare=wanted), lambda _: None)
        with pytest.raises(AssertionError) if wanted else contextlib.nullcontext():
            for now in (100.0, 100.0 + CALM, 200.0):
                spare.turn(now, calm=True)


# --- what: real processes ------------------------------------------------------------------------


def spares(gateway: Gateway) -> list[int]:
    """Return the stand-ins that have been started as spares, those included that serve by now."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                environ = (folder / "environ").read_bytes()
                ours = str(gateway.run_dir).encode() in environ
                program = FAKE.name.encode() in (folder / "cmdline").read_bytes()
                if ours and program and b"GATEWAY_SPARE=" in environ:
                    found.append(int(folder.name))
    return found


def spare_of(gateway: Gateway, *besides: int) -> int:
    """Wait for a spare that waits for its place; return its process."""

    def waits() -> int:
        for pid in spares(gateway):
            if pid not in besides:
                with contextlib.suppress(OSError):
                    # Blocked in recvmsg(2): everything is loaded.
                    name = Path(f"/proc/{pid}/wchan").read_text()
                    return pid if "recv" in name or "unix_stream" in name or name == "0" else 0
        return 0

    return until(waits, f"a spare: {gateway.said()}")


def test_it_takes_the_place_of_one_that_was_killed(gateway: Gateway) -> None:
    gateway.serving(workers=1)
    old = gateway.tell("who")
    spare = spare_of(gateway)
    os.kill(old["pid"], signal.SIGKILL)
    new = gateway.tell("who")
    assert new["pid"] == spare
    assert (new["slot"], new["slab"], new["boot"]) == (old["slot"], old["slab"], old["boot"])
    another = spare_of(gateway, spare)
    os.kill(spare, signal.SIGKILL)
    assert gateway.tell("who")["pid"] == another


def test_it_takes_the_place_of_one_that_hangs(gateway: Gateway) -> None:
    gateway.serving(workers=1)
    spare = spare_of(gateway)
    gateway.tell("hang")
    assert gateway.tell("who")["pid"] == spare


def test_it_is_no_more_than_one_and_serves_nobody_meanwhile(gateway: Gateway) -> None:
    gateway.serving(workers=2)
    spare = spare_of(gateway)
    assert spare not in {gateway.tell("who")["pid"] for _ in range(20)}
    until(lambda: alive(spare), "it stays")
    assert spares(gateway) == [spare]
    names = []
    for entry in Path(f"/proc/{spare}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # what it was reading just now
            names.append(str(entry.readlink()))
    assert not any("board" in name for name in names)
    assert len(names) <= 5  # 0, 1, 2, the stream, the folder just read


def test_one_that_still_loads_takes_the_place(gateway: Gateway) -> None:
    gateway.serving(workers=1, worker_argv=fake("slow"))
    until(lambda: spares(gateway), "a spare")
    (spare,) = spares(gateway)
    gateway.tell("die")
    assert gateway.tell("who")["pid"] == spare
    assert gateway.said().count("started again") == 1


def test_one_that_does_not_wake_up_is_replaced(gateway: Gateway) -> None:
    gateway.serving(workers=1, start_limit=1.0)
    spare = spare_of(gateway)
    os.kill(spare, signal.SIGSTOP)
    gateway.tell("die")
    assert gateway.tell("who")["pid"] != spare
    assert f"worker 0 (process {spare}) hangs and is killed" in gateway.said()


def test_one_that_never_loads_is_ended_and_another_tried(gateway: Gateway) -> None:
    supervisor = gateway.serving(workers=1, worker_argv=fake("stuck"), start_limit=1.0)
    first = until(lambda: spares(gateway), "a spare")[0]
    until(lambda: not alive(first), "it to be given up")
    assert f"the spare worker (process {first}) hangs and is killed" in gateway.said()
    until(lambda: set(spares(gateway)) - {first}, "another one")
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(10) == 0
    until(lambda: not gateway.left_running(), "all to end")


def test_one_that_has_loaded_waits_for_as_long_as_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = Plan(listen=("x:1",), admin="x:2", workers=1, run_dir="r", config="c")
    theirs: list[socket.socket] = []
    said: list[str] = []

    class NoProcess:
        pid = 7

        def __init__(self, _: object, __: object, more: dict[str, int]) -> None:
            theirs.append(socket.socket(fileno=os.dup(next(iter(more.values())))))

        def send(self, number: int) -> None:
            said.append(f"signal {number}")

    monkeypatch.setattr("gateway.supervisor.spare.Started", NoProcess)
    spare = Spare(plan, said.append)
    for now in (100.0, 100.0 + CALM):
        spare.turn(now, calm=True)
    theirs[0].sendall(channel.READY)
    spare.turn(100.0 + 10 * plan.start_limit, calm=True)
    assert said == []
    spare.end()
    theirs[0].close()


def test_the_slab_of_one_that_has_just_taken_a_place_is_left_to_it(gateway: Gateway) -> None:
    """It is found by its process alone: its environment names no place."""
    supervisor = gateway.serving(workers=1, worker_argv=fake("mute-spare"))
    slab, spare = gateway.slab_of(0), spare_of(gateway)
    gateway.tell("die")
    until(lambda: gateway.worker_of(0) == spare, "it to take the place")
    os.kill(spare, signal.SIGSTOP)  # it is told to leave once the new ones serve
    supervisor.kill()
    supervisor.wait()
    gateway.serving()
    assert f"spare worker (process {spare}) of an earlier run does not answer" in gateway.said()
    assert gateway.slab_of(0) != slab
    os.kill(spare, signal.SIGCONT)
    until(lambda: not alive(spare), "it to leave")


def test_one_that_dies_is_replaced_and_nobody_else_notices(gateway: Gateway) -> None:
    gateway.serving(workers=1)
    worker, spare = gateway.tell("who")["pid"], spare_of(gateway)
    os.kill(spare, signal.SIGTERM)
    another = spare_of(gateway, spare)
    assert f"the spare worker (process {spare}) ended by SIGTERM" in gateway.said()
    assert gateway.tell("who")["pid"] == worker
    gateway.tell("die")
    assert gateway.tell("who")["pid"] == another


def test_a_place_is_filled_where_the_spare_has_died_as_well(gateway: Gateway) -> None:
    gateway.serving(workers=1)
    worker, spare = gateway.tell("who")["pid"], spare_of(gateway)
    for pid in (spare, worker):
        os.kill(pid, signal.SIGKILL)
    assert gateway.tell("who")["pid"] not in {worker, spare}


def test_it_ends_with_the_gateway(gateway: Gateway) -> None:
    supervisor = gateway.serving()
    spare = spare_of(gateway)
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(10) == 0
    until(lambda: not alive(spare), "it ends")
    assert "spare" not in gateway.said()


def test_it_ends_when_the_supervisor_is_killed(gateway: Gateway) -> None:
    supervisor = gateway.serving()
    spare = spare_of(gateway)
    supervisor.kill()
    supervisor.wait()
    until(lambda: not alive(spare), "it ends")
    assert alive(gateway.worker_of(0))


def test_one_that_was_told_its_place_by_a_dead_supervisor_leaves_it(gateway: Gateway) -> None:
    """It slept between the two; the place is another's by the time that it wakes up."""
    supervisor = gateway.serving(workers=1)
    spare = spare_of(gateway)
    os.kill(spare, signal.SIGSTOP)
    gateway.tell("die")
    until(lambda: "started again" in gateway.said(), "the place to be given")
    supervisor.kill()
    supervisor.wait()
    gateway.serving()
    assert f"spare worker (process {spare}) of an earlier run does not answer" in gateway.said()
    os.kill(spare, signal.SIGCONT)
    until(lambda: not alive(spare), "it to leave")
    assert spare not in {event.pid for event in gateway.events("start")}
    assert gateway.tell("who")["pid"] == gateway.worker_of(0)


def test_an_upgrade_has_one_of_its_own(gateway: Gateway) -> None:
    gateway.serving(workers=1)
    spare = spare_of(gateway)
    assert gateway.upgraded().state == "done"
    until(lambda: not alive(spare), "the old one to end")
    another = spare_of(gateway, spare)
    gateway.tell("die")
    assert gateway.tell("who")["pid"] == another
