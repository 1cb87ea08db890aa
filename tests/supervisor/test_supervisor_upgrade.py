"""The supervisor becomes another version in place: a real one, with stand-in children."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.board import layout
from gateway.board.board import Board
from gateway.channel.handover import take_over
from gateway.channel.upgrades import Journal
from gateway.supervisor import upgrade
from gateway.supervisor.plan import Plan
from gateway.supervisor.upgrading import Upgrader
from gateway.version import VERSION
from tests.supervisor.supervised import FAKE, Gateway, alive, copy_of_package, fake, say_to, until


def board_of(gateway: Gateway, slab: int = -1) -> Board:
    slab = gateway.slab_of(0) if slab < 0 else slab
    handed = take_over(gateway.run_dir / f"worker-{slab}.sock")
    for _, fd in handed.sockets:
        os.close(fd)
    return Board.attach(handed.board)


def workers(gateway: Gateway) -> set[int]:
    return {gateway.worker_of(slot) for slot in range(gateway.plan.workers)}


def about(gateway: Gateway) -> upgrade.About:
    found = upgrade.read_about(gateway.run_dir)
    assert found is not None
    return found


class Load:
    """Connects again and again, and says how often that went wrong."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._address = gateway.addresses["listen"][0]
        self._going = True
        self.answers = 0
        self.lost: list[str] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while self._going:
            try:
                self._gateway.tell("who", self._address)
                self.answers += 1
            except (OSError, AssertionError, ValueError) as error:
                self.lost.append(repr(error))

    def stop(self) -> None:
        self._going = False
        self._thread.join()


def under_load(gateway: Gateway, act: Callable[[], None]) -> int:
    """Do something while clients connect; none of them may notice. Returns how many there were."""
    load = Load(gateway)
    try:
        act()
    finally:
        load.stop()
    assert load.lost == []
    assert load.answers > 10
    return load.answers


def test_to_another_version_and_back(gateway: Gateway, tmp_path: Path) -> None:
    supervisor = gateway.serving()
    addresses, first = gateway.addresses, workers(gateway)
    for _ in range(10):
        gateway.tell("who")
    newer = copy_of_package(tmp_path / "newer", "99.0.0")

    def there_and_back() -> None:
        there = gateway.upgraded(root=newer)
        assert (there.state, there.old, there.new) == (upgrade.DONE, VERSION, "99.0.0")
        assert there.board == "kept"
        assert about(gateway).version == "99.0.0"
        back = gateway.upgraded()
        assert (back.state, back.old, back.new) == (upgrade.DONE, "99.0.0", VERSION)

    under_load(gateway, there_and_back)
    assert supervisor.poll() is None
    assert gateway.addresses == addresses
    until(lambda: not any(map(alive, first)), "the first workers to end")
    assert not first & workers(gateway)
    board = board_of(gateway)
    assert board.total(layout.S_ACCEPTED) > 10
    assert board.words[layout.H_SUPERVISOR_PID] == supervisor.pid
    board.close()
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(15) == 0
    assert not any(map(alive, [event.pid for event in gateway.events("start")]))


def test_what_an_old_worker_holds_is_served_to_its_end(gateway: Gateway) -> None:
    gateway.serving(workers=1)
    held = gateway.connect()
    holder = say_to(held, "hold")["pid"]
    answer = gateway.upgraded()
    assert (answer.state, answer.draining) == (upgrade.DONE, 1)
    until(lambda: gateway.tell("who")["pid"] != holder, "the old one to stop accepting")
    assert alive(holder)
    # Another one meanwhile: the one that drains goes on draining.
    assert gateway.upgraded().draining == 2
    assert alive(holder)
    held.close()
    until(lambda: not alive(holder), "the old worker to end")


@pytest.mark.parametrize(("before", "after"), [(1, 4), (3, 1)])
def test_with_another_number_of_workers(gateway: Gateway, before: int, after: int) -> None:
    gateway.serving(workers=before)
    old = workers(gateway)
    assert gateway.upgraded(workers=after).workers == after
    until(lambda: not any(map(alive, old)), "the old workers to end")
    new = workers(gateway)
    assert len(new) == after
    for _ in range(20):
        assert gateway.tell("who")["pid"] in new


def test_more_workers_that_never_serve_lose_nobody(gateway: Gateway) -> None:
    """A new socket of the group gets no connection before its own worker accepts."""
    gateway.serving(workers=1)
    gateway.patience = 2.0
    worker = gateway.worker_of(0)

    def fails() -> None:
        assert gateway.upgraded(workers=4, worker_argv=fake("mute")).state == upgrade.ROLLED_BACK

    under_load(gateway, fails)
    assert alive(worker)


def test_more_workers_lose_nobody(gateway: Gateway) -> None:
    gateway.serving(workers=1)

    def grow() -> None:
        assert gateway.upgraded(workers=4).state == upgrade.DONE

    under_load(gateway, grow)


def test_with_other_listeners(gateway: Gateway, tmp_path: Path) -> None:
    kept = f"unix:{tmp_path}/kept.sock"
    gateway.serving(listen=("127.0.0.1:0", kept))
    gone, old = gateway.addresses["listen"][0], workers(gateway)
    assert gateway.upgraded(listen=(kept, "127.0.0.2:0")).state == upgrade.DONE
    until(lambda: not any(map(alive, old)), "the old workers to end")
    assert gateway.addresses["listen"][0] == kept
    assert gateway.tell("who", gateway.addresses["listen"][1])["slot"] in {0, 1}
    # Nobody holds it any more: whoever connected would wait for ever.
    with pytest.raises(ConnectionRefusedError):
        gateway.connect(gone)


def test_a_version_that_does_not_start_is_refused_and_nothing_changes(
    gateway: Gateway, tmp_path: Path
) -> None:
    gateway.serving()
    before = workers(gateway)
    broken = copy_of_package(
        tmp_path / "broken", "99.0.0", supervisor__lock=("import fcntl", "import no_such_module")
    )
    answer = gateway.upgraded(root=broken)
    assert answer.state == upgrade.REFUSED
    assert "no_such_module" in answer.text
    answer = gateway.upgraded(python=str(tmp_path / "no-python"))
    assert answer.state == upgrade.REFUSED
    assert "No such file" in answer.text
    assert workers(gateway) == before
    assert about(gateway).version == VERSION


def test_children_that_do_not_load_are_refused(gateway: Gateway) -> None:
    gateway.serving()
    before = workers(gateway)
    answer = gateway.upgraded(worker_argv=fake("useless"))
    assert (answer.state, answer.text) == (upgrade.REFUSED, "this version is of no use")
    assert workers(gateway) == before


def test_an_address_in_use_is_refused_and_nothing_changes(gateway: Gateway) -> None:
    gateway.serving()
    before = workers(gateway)
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        answer = gateway.upgraded(listen=(*gateway.plan.listen, taken))
    assert answer.state == upgrade.REFUSED
    assert answer.text == f"{taken}: in use by another process"
    assert workers(gateway) == before


def test_what_cannot_be_bound_after_the_trial_brings_the_version_before_back(
    gateway: Gateway, tmp_path: Path
) -> None:
    """A refusal that no trial foresaw: the old workers hold their seats again."""
    supervisor = gateway.serving()
    before = workers(gateway)
    sour = copy_of_package(
        tmp_path / "sour",
        "99.0.0",
        supervisor__supervisor=(
            "        self._board = make_board(plan, found)",
            '        raise OSError("sour")',
        ),
    )

    def refused() -> None:
        answer = gateway.upgraded(root=sour)
        assert answer.state == upgrade.ROLLED_BACK
        assert answer.text == "version 99.0.0 does not start: sour"

    under_load(gateway, refused)
    assert supervisor.poll() is None
    assert workers(gateway) == before
    assert gateway.events("term", "worker-0") == []
    # They are watched and replaced as ever.
    os.kill(gateway.worker_of(0), signal.SIGKILL)
    until(lambda: len(gateway.events("start", "worker-0")) == 2, "another worker")
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(15) == 0


@pytest.mark.parametrize("mode", ["crash", "mute"])
def test_workers_that_never_get_ready_leave_the_old_ones_serving(
    gateway: Gateway, tmp_path: Path, mode: str
) -> None:
    supervisor = gateway.serving()
    gateway.patience = 4.0
    before, plan = workers(gateway), gateway.plan
    newer = copy_of_package(tmp_path / "newer", "99.0.0")

    def fails() -> None:
        answer = gateway.upgraded(root=newer, worker_argv=fake(mode))
        assert answer.state == upgrade.ROLLED_BACK
        assert answer.text.startswith("version 99.0.0 does not serve: ")
        assert answer.new == VERSION

    under_load(gateway, fails)
    gateway.plan = plan
    assert {gateway.tell("who")["pid"] for _ in range(12)} <= before
    assert gateway.events("term", "worker-0") == []
    assert about(gateway).version == VERSION
    # Whatever was started meanwhile ends.
    until(lambda: len(gateway.left_running()) == 3, "two workers and control to be left")
    # And the next upgrade goes well.
    assert gateway.upgraded().state == upgrade.DONE
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(15) == 0


@pytest.mark.parametrize("who", ["worker", "control"])
def test_a_version_that_dies_soon_after_it_served_leaves_the_old_workers_serving(
    gateway: Gateway, tmp_path: Path, who: str
) -> None:
    supervisor = gateway.serving()
    gateway.hold = 10.0
    before = workers(gateway)
    newer = copy_of_package(tmp_path / "newer", "99.0.0")

    def dies() -> None:
        request = gateway.ask(root=newer)
        until(lambda: len(gateway.events("start", "worker-1")) == 2, "new workers to start")
        gateway.slab_of(0)
        gateway.slab_of(1)
        new = gateway.tell_control("who")["pid"] if who == "control" else gateway.worker_of(0)
        threading.Event().wait(1.5)  # a turn of the supervisor's loop has seen all of them serve
        os.kill(new, signal.SIGKILL)
        answer = gateway.answered(request)
        assert answer.state == upgrade.ROLLED_BACK
        assert answer.text.startswith("version 99.0.0 does not serve: it served, and a process of")

    if who == "control":
        under_load(gateway, dies)
    else:
        dies()  # what the worker that is killed has in hand is lost, and nobody else's fault
    assert supervisor.poll() is None
    assert about(gateway).version == VERSION
    assert {gateway.tell("who")["pid"] for _ in range(12)} <= before
    assert all(map(alive, before))


def cannot_go_back(folder: Path) -> Path:
    """Return a version whose exec of the one before fails, as where that has been removed."""
    execs = "os.execve(program.argv[0]"
    fails = f"if baggage.why:\n            raise OSError(2, 'it is gone')\n        {execs}"
    return copy_of_package(folder, "99.0.0", supervisor__become=(execs, fails))


def test_with_no_way_back_old_workers_stay_until_the_next_upgrade(
    gateway: Gateway, tmp_path: Path
) -> None:
    supervisor = gateway.serving(workers=1)
    gateway.hold = 0.5
    old, control = gateway.worker_of(0), gateway.plan.control_argv
    answer = gateway.upgraded(root=cannot_go_back(tmp_path / "newer"), control_argv=fake("crash"))
    assert answer.state == upgrade.FAILED
    assert "no way back: it is gone; old workers serve on" in answer.text
    gateway.slab_of(0)
    # A request that comes to nothing changes nothing about it.
    assert gateway.upgraded(python=str(tmp_path / "no-python")).state == upgrade.REFUSED
    assert gateway.upgraded(worker_argv=fake("useless")).state == upgrade.REFUSED
    assert "drain" not in gateway.said()
    assert [event for event in gateway.events("term") if event.pid == old] == []
    # Another one is possible, and lets them go.
    answer = gateway.upgraded(control_argv=control, worker_argv=fake("serve"))
    assert answer.state == upgrade.DONE
    until(lambda: not alive(old), "the old worker to end")
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(15) == 0


def test_with_no_way_back_old_workers_leave_once_it_serves_after_all(
    gateway: Gateway, tmp_path: Path
) -> None:
    gateway.serving(workers=1)
    gateway.patience, gateway.hold = 2.0, 0.5
    old, mended = gateway.worker_of(0), tmp_path / "mended"
    child = (f"while [ ! -e {mended} ]; do sleep 0.05; done; exec {' '.join(fake('serve'))}",)
    control = ("/bin/sh", "-c", f'case "$*" in *--try*) exit 0; esac; {child[0]}', "sh")
    answer = gateway.upgraded(root=cannot_go_back(tmp_path / "newer"), control_argv=control)
    assert answer.state == upgrade.FAILED
    gateway.slab_of(0)
    assert "drain" not in gateway.said()
    mended.touch()
    until(lambda: not alive(old), "the old worker to end")
    assert "serves after all" in gateway.said()


def upgrader(run_dir: Path, baggage: upgrade.Baggage | None = None) -> Upgrader:
    plan = Plan(listen=("x:1",), admin="x:2", workers=1, run_dir=str(run_dir), config="c")
    return Upgrader(plan, lambda _: None, nothing_held, baggage, fresh=True)


def nothing_held(of: str = "", began: float = 0.0) -> upgrade.Baggage:
    return upgrade.Baggage(lock=-1, board=-1, sockets=(), admin=("x:2", -1), id=of, began=began)


def test_the_end_fails_what_is_under_way_and_nothing_else(tmp_path: Path) -> None:
    """A trial while what the version before left is still held is the trial's to be told of."""
    made = upgrader(tmp_path, nothing_held("0" * 8, 1.0))
    made.settle(10.0, serving=True, deaths=0, restarts=0, old=0)
    request = upgrade.Request(id="1" * 8, program=upgrade.own_program("{}"))
    upgrade.write(tmp_path / upgrade.REQUEST_FILE, request)
    made.ask(20.0, ending=False)
    made.end(21.0)
    pid, status = os.waitpid(-1, 0)
    assert made.reaped(pid, os.waitstatus_to_exitcode(status), 21.5)
    steps = [(each.id, each.step) for each in Journal.read(tmp_path).steps]
    assert steps == [("0" * 8, "done"), ("1" * 8, "asked"), ("1" * 8, "failed")]
    made.end(22.0)
    assert len(Journal.read(tmp_path).steps) == len(steps)


def test_what_does_not_fit_into_the_way_back_is_refused_before_the_exec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Succeeds:
        pid, until = 7, 1e9

        def __init__(self, *_: object) -> None:
            pass

        def ended(self, _: int) -> tuple[str, str]:
            return "99.0.0", ""

    def becomes(*_: object) -> str:
        raise AssertionError("there is an exec")

    monkeypatch.setattr("gateway.supervisor.upgrading.Trial", Succeeds)
    monkeypatch.setattr("gateway.supervisor.upgrading.become", becomes)
    made = upgrader(tmp_path)
    many = dataclasses.replace(made._plan, workers=1000).encode()
    program = dataclasses.replace(upgrade.own_program(many), python="/new")
    upgrade.write(tmp_path / upgrade.REQUEST_FILE, upgrade.Request(id="1" * 8, program=program))
    made.ask(10.0, ending=False)
    assert made.reaped(7, 0, 11.0)
    answer = upgrade.read_answer(upgrade.answer_file(tmp_path, "1" * 8))
    assert answer is not None
    assert answer.state == upgrade.REFUSED
    assert answer.text == "so many sockets and workers do not fit into one exec"


def test_back_again_without_control_it_is_over_all_the_same(
    gateway: Gateway, tmp_path: Path
) -> None:
    """The file has what only the newer version knows, say: another upgrade has to be possible."""
    broken = tmp_path / "broken"
    program = tmp_path / "control.py"
    program.write_text(
        f"""
import os, runpy, sys
if os.path.exists({str(broken)!r}):
    sys.exit(2)
sys.argv[1] = "serve"
runpy.run_path({str(FAKE)!r}, run_name="__main__")
"""
    )
    control = (sys.executable, "-S", str(program), FAKE.name)
    gateway.serving(workers=1, control_argv=control)
    plan, worker = gateway.plan, gateway.worker_of(0)
    gateway.patience = 4.0
    broken.touch()
    request = gateway.ask(worker_argv=fake("crash"), control_argv=fake("serve"))
    answer = gateway.answered(request)
    assert answer.state == upgrade.ROLLED_BACK
    assert "not all of" in answer.text
    assert alive(worker)
    gateway.plan = plan
    gateway.patience = 15.0
    broken.unlink()
    assert gateway.upgraded().state == upgrade.DONE


def test_one_that_stays_is_done_after_the_hold(gateway: Gateway) -> None:
    gateway.serving(workers=1)
    gateway.hold = 1.5
    old = gateway.worker_of(0)
    answer = gateway.upgraded()
    assert answer.state == upgrade.DONE
    assert answer.seconds >= 1.5
    until(lambda: not alive(old), "the old worker to end")


def test_while_workers_and_control_are_being_replaced(gateway: Gateway) -> None:
    """Whoever is dead when it is asked for is no reason not to do it."""
    gateway.serving()
    os.kill(gateway.worker_of(0), signal.SIGKILL)
    os.kill(gateway.tell_control("who")["pid"], signal.SIGKILL)
    answer = gateway.upgraded()
    assert (answer.state, answer.board) == (upgrade.DONE, "kept")
    for slot in range(2):
        gateway.slab_of(slot)
    assert gateway.tell_control("who")["pid"]


def installed_over(folder: Path, version: str) -> Path:
    """Put another version in the place of the one in ``folder``, as ``pip install -U`` does."""
    shutil.rmtree(folder / "gateway")
    return copy_of_package(folder, version)


def test_installed_over_the_running_version_there_is_no_way_back_and_that_is_said(
    gateway: Gateway, tmp_path: Path
) -> None:
    place = copy_of_package(tmp_path / "place", "98.0.0")
    supervisor = gateway.serving(root=place)
    before, plan = workers(gateway), gateway.plan
    installed_over(place, "99.0.0")
    gone = f"the files of 98.0.0 in {place}/gateway are 99.0.0's now"

    refused = gateway.upgraded(root=place, require_way_back=True)
    assert (refused.state, refused.text) == (upgrade.REFUSED, f"no way back: {gone}")

    gateway.patience = 3.0

    def fails() -> None:
        request = gateway.ask(root=place, worker_argv=fake("crash"))
        first = gateway.answered(request, *upgrade.STATES)
        assert (first.way_back, first.no_way_back) == (False, gone)
        answer = gateway.answered(request)
        assert (answer.state, answer.way_back) == (upgrade.FAILED, False)
        assert answer.text == (
            "version 99.0.0 does not serve: its children end right at start; "
            f"no way back: {gone}; workers of 98.0.0 serve on, kept by 99.0.0"
        )

    under_load(gateway, fails)
    gateway.plan = plan
    assert supervisor.poll() is None
    # They hold their seats: nothing else is tried on, and one that dies is replaced.
    assert {gateway.tell("who")["pid"] for _ in range(12)} <= before
    until(lambda: len(gateway.left_running()) == 3, "two workers and control to be left")
    assert gateway.said().count("; keeping old workers") == 1
    # From here on it is another one whose files are there.
    answer = gateway.upgraded(root=place)
    assert (answer.state, answer.old, answer.way_back) == (upgrade.DONE, "99.0.0", True)


def test_installed_over_the_running_version_it_becomes_the_new_one(
    gateway: Gateway, tmp_path: Path
) -> None:
    place = copy_of_package(tmp_path / "place", "98.0.0")
    gateway.serving(root=place, workers=1)
    installed_over(place, "99.0.0")
    answer = gateway.upgraded(root=place)
    assert (answer.state, answer.new, answer.way_back) == (upgrade.DONE, "99.0.0", False)
    shutil.rmtree(place)
    answer = gateway.upgraded()
    assert (answer.state, answer.new, answer.way_back) == (upgrade.DONE, VERSION, False)
    assert answer.no_way_back == f"the files of 99.0.0 in {place}/gateway are no longer there"


def test_behind_a_link_that_leads_elsewhere_by_now_there_is_a_way_back(
    gateway: Gateway, tmp_path: Path
) -> None:
    """As with ``current``, which is what a service manager starts."""
    current = tmp_path / "current"
    older = copy_of_package(tmp_path / "older", "98.0.0")
    newer = copy_of_package(tmp_path / "newer", "99.0.0")
    current.symlink_to(older)
    gateway.serving(root=current, workers=1)
    gateway.patience = 3.0
    current.unlink()
    current.symlink_to(newer)
    plan = gateway.plan
    answer = gateway.upgraded(root=current, worker_argv=fake("crash"))
    assert (answer.state, answer.new, answer.way_back) == (upgrade.ROLLED_BACK, "98.0.0", True)
    gateway.plan = plan
    assert about(gateway).version == "98.0.0"


def test_what_upgrades_come_to_is_written_down(gateway: Gateway, tmp_path: Path) -> None:
    supervisor = gateway.serving(workers=1)
    newer = copy_of_package(tmp_path / "newer", "99.0.0")
    done = gateway.ask(root=newer)
    gateway.answered(done)
    refused = gateway.ask(python=str(tmp_path / "none"))
    gateway.answered(refused)
    journal = Journal.read(gateway.run_dir)
    assert [(each.id, each.step, each.old, each.new) for each in journal.steps] == [
        (done, "asked", VERSION, ""),
        (done, "tried", VERSION, "99.0.0"),
        (done, "done", VERSION, "99.0.0"),
        (refused, "refused", "99.0.0", ""),
    ]
    assert {(each.uid, each.user) for each in journal.steps} == {(os.getuid(), "somebody")}
    assert journal.counts == {"done": 1, "refused": 1, "rolled_back": 0, "failed": 0}

    # Killed in the middle: whoever takes over says so, and counts go on.
    gateway.patience = 10.0
    plan = gateway.plan
    lost = gateway.ask(worker_argv=fake("mute"))
    gateway.answered(lost, upgrade.REPLACING)
    supervisor.kill()
    supervisor.wait()
    gateway.plan = plan
    gateway.serving()
    journal = Journal.read(gateway.run_dir)
    last = journal.last
    assert last is not None
    assert (last.id, last.step) == (lost, "failed")
    assert last.text == f"its supervisor was killed in the middle; version {VERSION} took over"
    assert (journal.counts["done"], journal.counts["failed"]) == (1, 1)

    # Ended and begun anew, counts begin anew, too.
    gateway.processes[-1].send_signal(signal.SIGTERM)
    assert gateway.processes[-1].wait(15) == 0
    gateway.serving()
    journal = Journal.read(gateway.run_dir)
    assert journal.last == last
    assert not +journal.counts


def test_a_board_of_another_layout_is_left_behind_and_said(
    gateway: Gateway, tmp_path: Path
) -> None:
    gateway.serving()
    old = workers(gateway)
    other = copy_of_package(
        tmp_path / "other",
        "99.0.0",
        board__layout=(f"LAYOUT = {layout.LAYOUT}", f"LAYOUT = {layout.LAYOUT + 1}"),
    )

    def there() -> None:
        answer = gateway.upgraded(root=other)
        assert (answer.state, answer.board) == (upgrade.DONE, "new")

    under_load(gateway, there)
    until(lambda: not any(map(alive, old)), "the old workers to end")
    assert "counts and breakers begin anew" in gateway.said()
    assert gateway.upgraded().board == "new"


def test_back_from_a_board_of_another_layout_the_old_one_is_as_it_was(
    gateway: Gateway, tmp_path: Path
) -> None:
    gateway.serving()
    plan = gateway.plan
    for _ in range(5):
        gateway.tell("who")
    other = copy_of_package(
        tmp_path / "other",
        "99.0.0",
        board__layout=(f"LAYOUT = {layout.LAYOUT}", f"LAYOUT = {layout.LAYOUT + 1}"),
    )
    assert gateway.upgraded(root=other, worker_argv=fake("crash")).state == upgrade.ROLLED_BACK
    gateway.plan = plan
    board = board_of(gateway, 0)
    assert board.words[layout.H_LAYOUT] == layout.LAYOUT
    assert board.total(layout.S_ACCEPTED) >= 5
    board.close()


def test_two_at_once_are_refused(gateway: Gateway) -> None:
    gateway.serving(workers=1)
    gateway.patience = 3.0
    plan = gateway.plan
    first = gateway.ask(worker_argv=fake("mute"))
    gateway.answered(first, upgrade.TRYING, upgrade.REPLACING)
    gateway.plan = plan
    second = gateway.answered(gateway.ask())
    assert (second.state, second.text) == (upgrade.REFUSED, "another upgrade is under way")
    assert gateway.answered(first).state == upgrade.ROLLED_BACK


def test_by_hand_the_installed_version_is_started_again(gateway: Gateway) -> None:
    supervisor = gateway.serving(workers=1)
    old = gateway.worker_of(0)
    supervisor.send_signal(signal.SIGUSR2)
    assert gateway.answered("00000000").state == upgrade.DONE
    until(lambda: not alive(old), "the old worker to end")


def test_each_by_hand_has_an_id_of_its_own_and_a_second_one_ends_nothing(
    gateway: Gateway, tmp_path: Path
) -> None:
    supervisor = gateway.serving(workers=1)
    gateway.hold = 0.0
    supervisor.send_signal(signal.SIGUSR2)
    assert gateway.answered("00000000").state == upgrade.DONE
    first = Journal.read(gateway.run_dir).steps
    assert len({each.id for each in first}) == 1
    supervisor.send_signal(signal.SIGUSR2)
    until(lambda: Journal.read(gateway.run_dir).under_way, "the second one")
    supervisor.send_signal(signal.SIGUSR2)
    until(
        lambda: "another upgrade is under way" in (gateway.run_dir / "upgrades.json").read_text(),
        "the third to be refused",
    )
    assert gateway.answered("00000000").state == upgrade.DONE
    steps = Journal.read(gateway.run_dir).steps
    by_id = {each.id: [step.step for step in steps if step.id == each.id] for each in steps}
    went = ["asked", "tried", "done"]
    assert sorted(by_id.values()) == [went, went, ["refused"]]


def test_signals_that_come_during_the_exec_are_not_lost(gateway: Gateway) -> None:
    """Nor do they end the process, which has no handlers for a moment."""
    supervisor = gateway.serving(workers=1)
    request = gateway.ask()
    gateway.answered(request, upgrade.REPLACING, upgrade.DONE)
    for _ in range(50):
        supervisor.send_signal(signal.SIGHUP)
        threading.Event().wait(0.005)
    assert gateway.answered(request).state == upgrade.DONE
    until(lambda: gateway.events("hup"), "control to be told")
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(15) == 0


@pytest.mark.parametrize(("name", "ends"), [("SIGTERM", True), ("SIGINT", True), ("SIGHUP", False)])
def test_a_signal_that_was_taken_but_not_read_before_the_exec_is_not_lost(
    gateway: Gateway, tmp_path: Path, name: str, *, ends: bool
) -> None:
    become = "problem = become("
    signalled = f"import signal; os.kill(os.getpid(), signal.{name}); {become}"
    root = copy_of_package(tmp_path / "old", "98.0.0", supervisor__upgrading=(become, signalled))
    supervisor = gateway.serving(root=root, workers=1)
    request = gateway.ask()
    if ends:
        assert supervisor.wait(15) == 0
        assert gateway.left_running() == []
    else:
        until(lambda: gateway.events("hup"), "control to be told")
        assert gateway.answered(request).state == upgrade.DONE


def test_told_to_end_in_the_middle_everybody_ends(gateway: Gateway) -> None:
    supervisor = gateway.serving(workers=1)
    request = gateway.ask(worker_argv=fake("mute"))
    until(lambda: len(gateway.events("start", "worker-0")) == 2, "the new worker")
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(20) == 0
    answer = upgrade.read_answer(upgrade.answer_file(gateway.run_dir, request))
    assert answer is not None
    assert (answer.state, answer.text) == (upgrade.FAILED, "the gateway was told to end")
    assert gateway.left_running() == []


def test_the_lock_is_never_free(gateway: Gateway) -> None:
    """Another gateway tries to start for as long as an upgrade goes."""
    gateway.serving(workers=1)
    request = gateway.ask()
    tries = 0
    while True:
        answer = upgrade.read_answer(upgrade.answer_file(gateway.run_dir, request))
        if answer is not None and answer.state in upgrade.FINAL and tries > 3:
            break
        other = gateway.start()
        assert other.wait(15) == 4
        gateway.processes.remove(other)
        tries += 1
    assert answer.state == upgrade.DONE


def test_killed_after_an_upgrade_the_next_run_takes_over(gateway: Gateway, tmp_path: Path) -> None:
    supervisor = gateway.serving(workers=1)
    newer = copy_of_package(tmp_path / "newer", "99.0.0")
    assert gateway.upgraded(root=newer).state == upgrade.DONE
    old, address = gateway.worker_of(0), gateway.addresses["listen"][0]
    supervisor.kill()
    supervisor.wait()
    gateway.serving()
    assert gateway.addresses["listen"][0] == address
    until(lambda: not alive(old), "the old worker to end")


def test_a_request_that_is_none_changes_nothing(gateway: Gateway) -> None:
    supervisor = gateway.serving(workers=1)
    wrong = ("{", "[]", json.dumps({"id": "../x", "program": {}}), json.dumps({"id": "0" * 8}))
    for refused, text in enumerate(wrong):
        beside = gateway.run_dir / "beside"
        beside.write_text(text)
        beside.rename(gateway.run_dir / upgrade.REQUEST_FILE)
        supervisor.send_signal(signal.SIGUSR2)
        wanted = refused + 1
        until(
            lambda: gateway.said().count("upgrade refused") == wanted,  # noqa: B023
            f"a refusal of {text}: {gateway.said()}",
        )
    assert supervisor.poll() is None
    assert gateway.upgraded().state == upgrade.DONE


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"program": {"python": 7, "root": "", "plan": "{}"}}, "python is not a text"),
        ({"program": {"python": "/x\0y", "root": "", "plan": "{}"}}, "python is not a text"),
        ({"program": {"python": "/x", "root": "\ud800", "plan": "{}"}}, "root is not a text"),
        ({"program": {"python": "/x", "root": "", "plan": "\0"}}, "plan is not a text"),
        ({"program": {"python": "/x"}}, "missing"),
        ({"program": None}, "upgrade.json"),
        ({"timeout": "5"}, "timeout is not from 0"),
        ({"timeout": True}, "timeout is not from 0"),
        ({"hold": float("nan")}, "hold is not from 0"),
        ({"hold": -1}, "hold is not from 0"),
        ({"user": [1]}, "user is not a text"),
        ({"require_way_back": 1}, "require_way_back is not a bool"),
    ],
)
def test_a_request_of_wrong_values_is_refused_with_an_answer(
    tmp_path: Path, changed: dict[str, object], why: str
) -> None:
    program = {"python": "/no-such-python", "root": "", "plan": "{}"}
    request = {"id": "1" * 8, "program": program, **changed}
    (tmp_path / upgrade.REQUEST_FILE).write_text(json.dumps(request))
    upgrader(tmp_path).ask(10.0, ending=False)
    answer = upgrade.read_answer(upgrade.answer_file(tmp_path, "1" * 8))
    assert answer is not None
    assert answer.state == upgrade.REFUSED
    assert why in answer.text


def test_no_descriptor_is_left_over(gateway: Gateway) -> None:
    supervisor = gateway.serving(workers=1)

    def descriptors() -> int:
        return len(list(Path(f"/proc/{supervisor.pid}/fd").iterdir()))

    fresh = descriptors()
    for _ in range(2):
        assert gateway.upgraded().state == upgrade.DONE
        until(lambda: len(gateway.left_running()) == 2, "the old children to end")
        until(lambda: descriptors() <= fresh, f"{fresh} descriptors to be left: {descriptors()}")
    assert f"{sys.executable} -P -m gateway.supervisor".split() == [
        each.decode()
        for each in Path(f"/proc/{supervisor.pid}/cmdline").read_bytes().split(b"\0")[:-1]
    ]
