"""The supervisor's parts that need no process: the plan, the watch, a child's phases."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.supervisor import addresses
from gateway.supervisor import plan as plans
from gateway.supervisor.addresses import AddressError
from gateway.supervisor.become import LONGEST, portable
from gateway.supervisor.children import (
    TRANSITIONS,
    Adopted,
    Child,
    Event,
    IllegalTransitionError,
    Phase,
    exit_in_words,
)
from gateway.supervisor.ending import EXIT_FORCED, Ending
from gateway.supervisor.lock import HeldError, OwnerLock
from gateway.supervisor.plan import Plan, PlanError
from gateway.supervisor.sockets import Sockets, Taken
from gateway.supervisor.upgrade import Baggage, Carried, Program, UpgradeError
from gateway.supervisor.watch import LATE, LONGEST_DELAY, RestartPolicy, Watchdog

PLAN = Plan(
    listen=("0.0.0.0:80", "unix:/x"),
    admin="127.0.0.1:9090",
    workers=3,
    run_dir="/run/gw",
    config="/etc/gw.yaml",
    worker_argv=("a", "b"),
)


class NoProcess:
    """Takes signals and notes them."""

    pid = 7

    def __init__(self) -> None:
        self.signals: list[int] = []

    def send(self, number: int) -> None:
        self.signals.append(number)

    def fileno(self) -> int:
        return -1

    def ended(self) -> bool:
        return False

    def close(self) -> None:
        pass


def child(phase: Phase) -> tuple[Child, NoProcess]:
    process = NoProcess()
    made = Child(role="worker", slot=1, slab=2, process=process, started=0.0, phase=phase)
    return made, process


@pytest.mark.parametrize(("phase", "event"), list(product(Phase, Event)))
def test_every_pair_of_phase_and_event_is_in_the_table_or_raises(
    phase: Phase, event: Event
) -> None:
    made, _ = child(phase)
    if (phase, event) in TRANSITIONS:
        made.happens(event)
        assert made.phase is TRANSITIONS[phase, event]
    else:
        with pytest.raises(IllegalTransitionError, match=f"{event.value} while {phase.value}"):
            made.happens(event)
        assert made.phase is phase


def test_nothing_leads_out_of_gone_and_all_lead_there() -> None:
    assert not [pair for pair in TRANSITIONS if pair[0] is Phase.GONE]
    for phase in set(Phase) - {Phase.GONE}:
        assert TRANSITIONS[phase, Event.EXIT] is Phase.GONE


def test_a_child_is_asked_to_end_once_and_killed_once() -> None:
    made, process = child(Phase.SERVING)
    made.stop(kill_at=5.0)
    made.stop(kill_at=9.0)
    assert made.kill_at == 5.0
    made.kill()
    made.kill()
    made.stop(kill_at=1.0)
    assert process.signals == [signal.SIGTERM, signal.SIGKILL]
    assert made.name == "worker 1 (process 7)"


def test_ended_at_once_no_seat_is_filled_again() -> None:
    worker, process = child(Phase.SERVING)
    closed: list[bool] = []
    plan = replace(PLAN, shutdown_delay=10.0)
    ending = Ending(plan, [worker], lambda _: None, lambda: closed.append(True))
    assert ending.begin(100.0)
    ending.further(100.0)
    before = ending.filled
    ending.at_once()
    assert (before, ending.filled) == (True, False)
    assert closed == [True]
    assert process.signals == [signal.SIGKILL]
    ending.at_once()
    ending.further(101.0)
    assert closed == [True]
    assert ending.exit_code == EXIT_FORCED


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "exited with 0"), (3, "exited with 3"), (-9, "ended by SIGKILL"), (-99, "by signal 99")],
)
def test_an_exit_is_told_in_words(code: int, words: str) -> None:
    assert words in exit_in_words(code)


def test_a_plan_comes_back_as_it_went() -> None:
    assert Plan.decode(PLAN.encode()) == PLAN
    assert PLAN.slabs == 8
    assert PLAN.argv("worker") == ("a", "b")
    assert PLAN.argv("control") == (sys.executable, "-P", "-m", "gateway.control")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "not a plan"),
        ("[]", "not a plan"),
        ("{}", "not a plan"),
        (PLAN.encode().replace('"workers": 3', '"workers": 0'), "workers: 0, expected 1 to 1024"),
        (PLAN.encode().replace('"workers": 3', '"wrokers": 3'), "wrokers"),
        (PLAN.encode().replace('["0.0.0.0:80", "unix:/x"]', "[]"), "listen: empty"),
        (PLAN.encode().replace('["0.0.0.0:80", "unix:/x"]', "7"), "not a plan"),
    ],
)
def test_what_is_no_plan_is_told(text: str, expected: str) -> None:
    with pytest.raises(PlanError, match=expected):
        Plan.decode(text)


def test_a_process_without_a_plan_says_how_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(plans.VARIABLE, raising=False)
    with pytest.raises(PlanError, match="gateway run"):
        Plan.inherited()
    monkeypatch.setenv(plans.VARIABLE, PLAN.encode())
    assert Plan.inherited() == PLAN


def test_the_environment_finds_the_package_and_loses_the_plan(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = str(Path(plans.__file__).parents[2])
    monkeypatch.setenv(plans.VARIABLE, "secret of a parent")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    env = plans.environment("X", "1")
    assert env["X"] == "1"
    assert plans.VARIABLE not in env
    assert env["PYTHONPATH"].split(os.pathsep) == [root, "/elsewhere"]
    monkeypatch.setenv("PYTHONPATH", env["PYTHONPATH"])
    assert plans.environment("X", "1")["PYTHONPATH"] == env["PYTHONPATH"]


def test_a_silence_counts_from_the_last_beat() -> None:
    dog = Watchdog(0.25)
    dog.begin_check(100.0)  # the first check of all is late by nature
    dog.begin_check(100.25)
    assert not dog.silent(101.4, beat=100.0, limit=1.5)
    assert dog.silent(101.6, beat=100.0, limit=1.5)


def test_a_late_supervisor_gives_the_whole_limit_again() -> None:
    dog = Watchdog(0.25)
    dog.begin_check(100.0)
    dog.begin_check(110.0)
    assert not dog.silent(110.0, beat=99.0, limit=1.5)
    dog.begin_check(110.25)
    assert not dog.silent(111.5, beat=99.0, limit=1.5)
    assert dog.silent(111.6, beat=99.0, limit=1.5)


@given(st.lists(st.floats(0.0, 0.25 + LATE), max_size=30))
def test_a_punctual_supervisor_gives_no_grace(gaps: list[float]) -> None:
    dog = Watchdog(0.25)
    now = 50.0
    dog.begin_check(now)
    for gap in gaps:
        now += gap
        dog.begin_check(now)
    assert dog.silent(now + 60.0, beat=now, limit=1.5)
    assert dog.silent(50.0 + 1.6, beat=0.0, limit=1.5)


def test_a_death_after_a_life_costs_no_wait() -> None:
    policy = RestartPolicy()
    for _ in range(10):
        assert policy.delay(60.0, was_ready=True) == 0.0


def test_early_deaths_wait_longer_up_to_the_longest() -> None:
    policy = RestartPolicy()
    delays = [policy.delay(0.1, was_ready=False) for _ in range(9)]
    assert delays == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert policy.delay(3.0, was_ready=True) == 0.0
    assert policy.delay(0.1, was_ready=True) == 0.0
    assert policy.delay(0.1, was_ready=True) == 0.1


def test_one_that_had_served_is_never_waited_for_long() -> None:
    policy = RestartPolicy()
    delays = [policy.delay(0.1, was_ready=True) for _ in range(10)]
    assert delays == [0.0, 0.1] + [0.2] * 8
    # One that does not get ready any more is a crash loop all the same.
    assert policy.delay(0.1, was_ready=False) == LONGEST_DELAY


@given(st.integers(0, 10**9))
def test_a_crash_loop_of_weeks_never_waits_longer(deaths: int) -> None:
    policy = RestartPolicy(early_deaths=deaths)
    assert 0.0 <= policy.delay(0.0, was_ready=False) <= LONGEST_DELAY


def test_a_process_is_adopted_with_and_without_a_pidfd(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(_: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    for forbid in (False, True):
        if forbid:
            monkeypatch.setattr(os, "pidfd_open", forbidden, raising=False)
        with subprocess.Popen(["sleep", "60"]) as process:
            adopted = Adopted(process.pid)
            assert (adopted.fileno() < 0) is forbid
            assert not adopted.ended()
            adopted.send(signal.SIGTERM)
            assert process.wait(10) == -signal.SIGTERM
        assert adopted.ended()
        adopted.send(signal.SIGTERM)
        adopted.close()
        with pytest.raises(ProcessLookupError):
            Adopted(process.pid)


def test_one_socket_is_shared_where_the_system_does_not_spread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = replace(PLAN, listen=("127.0.0.1:0",), admin="127.0.0.1:0")
    own = Sockets(plan, Taken())
    assert len({own.of_slot(slot) for slot in range(3)}) == 3
    own.close()
    monkeypatch.setattr(addresses, "SOCKET_PER_WORKER", False)
    shared = Sockets(plan, Taken())
    assert len({shared.of_slot(slot) for slot in range(3)}) == 1
    shared.close()


def test_sockets_that_fail_half_way_leave_nothing_bound() -> None:
    first = Sockets(replace(PLAN, listen=("127.0.0.1:0",), admin="127.0.0.1:0"), Taken())
    admin = first.resolved_admin
    free = Sockets(replace(PLAN, listen=("127.0.0.1:0",), admin="127.0.0.1:0"), Taken())
    address = free.resolved[0]
    free.close()
    with pytest.raises(AddressError, match=admin):
        Sockets(replace(PLAN, listen=(address,), admin=admin), Taken())
    addresses.refuse_if_taken(addresses.parse(address))
    first.close()


IMPORTS = """
import sys
before = set(sys.modules)
import gateway.supervisor.__main__
print("\\n".join(sorted(set(sys.modules) - before)))
"""


def test_the_supervisor_imports_the_standard_library_only() -> None:
    """It is the one process that nobody restarts, and an upgrade must not need it to reload."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", IMPORTS],
        env=plans.environment("UNUSED", ""),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    modules = set(done.stdout.split())
    ours = {name for name in modules if name.partition(".")[0] == "gateway"}
    foreign = {
        name for name in modules - ours if name.partition(".")[0] not in sys.stdlib_module_names
    }
    assert foreign == set()
    assert not {name for name in modules if name.partition(".")[0] in {"asyncio", "http", "ssl"}}
    allowed = ("gateway.supervisor", "gateway.board", "gateway.channel", "gateway.hot")
    assert {n for n in ours if not n.startswith(allowed)} == {"gateway", "gateway.version"}
    assert "gateway.channel.messages" not in ours


def test_the_lock_goes_on_over_an_exec_without_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    lock = OwnerLock(path)
    os.set_inheritable(lock.fd, True)

    def no_second_one(*_: object) -> int:
        raise AssertionError("the file is opened again: what holds the lock meanwhile?")

    with monkeypatch.context() as patched:
        patched.setattr("gateway.supervisor.lock.os.open", no_second_one)
        kept = OwnerLock.kept(lock.fd, path)
    assert kept.fd == lock.fd
    assert not os.get_inheritable(kept.fd)
    with pytest.raises(HeldError):
        OwnerLock(path)
    kept.close()


def test_a_lock_whose_file_was_replaced_is_taken_anew(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = OwnerLock(path)
    path.unlink()
    kept = OwnerLock.kept(lock.fd, path)
    with pytest.raises(HeldError, match=str(os.getpid())):
        OwnerLock(path)
    kept.close()
    lock.close()


def test_baggage_comes_back_as_it_went_and_newer_fields_are_left_out() -> None:
    program = Program(python="/p", root="/r", plan="{}")
    baggage = Baggage(
        lock=3,
        board=4,
        sockets=(("127.0.0.1:80", 0, 5), ("unix:/x", -1, 6)),
        admin=("127.0.0.1:9090", 7),
        given=("unix:/x",),
        workers=(Carried(pid=9, slot=0, slab=1, started=2.5, phase="serving", keep=True),),
        control=(8,),
        id="0" * 16,
        began=1.5,
        back=program,
    )
    assert Baggage.decode(baggage.encode()) == baggage
    assert baggage.descriptors == {3, 4, 5, 6, 7}
    values = json.loads(baggage.encode())
    values["new"] = values["workers"][0]["new"] = values["back"]["new"] = 1
    assert Baggage.decode(json.dumps(values)) == baggage
    values["format"] = 2
    for wrong in (json.dumps(values), "{}", "[]", "{"):
        with pytest.raises(UpgradeError):
            Baggage.decode(wrong)


def test_what_is_too_long_for_an_exec_goes_without_the_journal_or_not_at_all() -> None:
    def baggage(workers: int, journal: str) -> Baggage:
        one = Carried(pid=99999, slot=1, slab=1, started=12345.678901234, phase="serving")
        return Baggage(
            lock=3,
            board=4,
            sockets=(),
            admin=("127.0.0.1:1", 5),
            workers=(one,) * workers,
            id="0" * 8,
            began=1.0,
            back=Program(python="/x", root="", plan="{}"),
            journal=journal,
        )

    short = baggage(4, "j" * 1000)
    assert portable(short, 4) == short
    assert portable(baggage(4, "j" * LONGEST), 4) == baggage(4, "")
    # There it would fit, with the new workers back again it would not.
    many = baggage(600, "")
    assert len(many.encode()) < LONGEST - 100
    assert portable(many, 4) == many
    assert portable(many, 600) is None


def test_another_versions_package_is_found_and_ours_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    own = plans.package_root()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((own, "/theirs", "/other")))
    env = Program(python="/p", root="/other", plan="P").environment(MORE="x")
    assert env["PYTHONPATH"] == os.pathsep.join(("/other", "/theirs"))
    assert (env["GATEWAY_PLAN"], env["MORE"]) == ("P", "x")
    monkeypatch.setenv("PYTHONPATH", own)
    assert "PYTHONPATH" not in Program(python="/p", root="", plan="P").environment()
