from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gateway.board import layout
from gateway.board.board import Board
from gateway.channel.handover import take_over
from tests.supervisor.supervised import Gateway, alive, fake, say_to, until


def killed(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def board_of(gateway: Gateway, slab: int) -> Board:
    handed = take_over(gateway.run_dir / f"worker-{slab}.sock")
    for _, fd in handed.sockets:
        os.close(fd)
    return Board.attach(handed.board)


def retired(gateway: Gateway, pids: set[int]) -> None:
    until(lambda: not any(map(alive, pids)), f"{pids} to end: {gateway.said()}")


def test_children_serve_on_without_a_supervisor(gateway: Gateway) -> None:
    killed(gateway.serving())
    workers = {gateway.worker_of(slot) for slot in (0, 1)}
    assert {gateway.tell("who")["pid"] for _ in range(8)} <= workers
    assert gateway.tell_control("who")["slot"] == -1


def test_the_next_run_takes_sockets_and_board_over(gateway: Gateway) -> None:
    killed(gateway.serving())
    address, admin = gateway.addresses["listen"][0], gateway.addresses["admin"]
    old = {gateway.worker_of(slot) for slot in (0, 1)}
    old_control = gateway.tell_control("who")
    for _ in range(10):
        gateway.tell("who")
    held = gateway.connect()
    holder = say_to(held, "hold")

    gateway.serving()

    assert gateway.addresses == {"listen": [address], "admin": admin}
    new = {gateway.worker_of(slot) for slot in (0, 1)}
    assert not old & new
    control = gateway.tell_control("who")
    assert control["pid"] != old_control["pid"]
    assert not alive(old_control["pid"])
    retired(gateway, old - {holder["pid"]})
    until(lambda: len(gateway.events("term", "worker-0")) == 1, "the old to be told")
    until(lambda: len(gateway.events("term", "worker-1")) == 1, "the old to be told")
    assert gateway.tell("who")["boot"] != old_control["boot"]
    # What was in an old worker's hands is served to its end.
    assert alive(holder["pid"])
    held.close()
    retired(gateway, old)
    board = board_of(gateway, gateway.slab_of(0))
    assert board.total(layout.S_ACCEPTED) >= 11
    assert [worker.pid for worker in board.workers() if worker.pid in old] == []
    assert board.total(layout.S_CONNECTIONS) == 0
    assert board.words[layout.H_CONTROL_PID] == control["pid"]
    board.close()
    assert "taken over from an earlier run" in gateway.said()


def test_a_takeover_ends_as_an_ordinary_run_does(gateway: Gateway) -> None:
    killed(gateway.serving())
    everybody = [event.pid for event in gateway.events("start")]
    supervisor = gateway.serving()
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(15) == 0
    everybody += [event.pid for event in gateway.events("start")]
    assert not any(map(alive, everybody))


def test_connections_survive_a_takeover_without_any_worker(gateway: Gateway) -> None:
    """New workers that never serve leave the old ones alone."""
    killed(gateway.serving(workers=1))
    old = gateway.worker_of(0)
    gateway.start(worker_argv=fake("crash"))
    until(lambda: len(gateway.events("start", "worker-0")) >= 4, "some tries")
    assert alive(old)
    assert gateway.tell("who")["pid"] == old
    assert gateway.events("term", "worker-0") == []


def test_a_worker_killed_while_nobody_watched_leaves_no_gauges(gateway: Gateway) -> None:
    supervisor = gateway.serving()
    held = gateway.connect()
    holder = say_to(held, "hold")
    killed(supervisor)
    os.kill(holder["pid"], signal.SIGKILL)
    until(lambda: not alive(holder["pid"]), "the worker to be gone")
    held.close()
    gateway.serving()
    board = board_of(gateway, gateway.slab_of(0))
    slab = board.slab(holder["slab"])
    assert slab[layout.S_ACCEPTED] >= 1
    until(lambda: board.total(layout.S_CONNECTIONS) == 0, "the gauge to be put right")
    slab.release()
    board.close()


@pytest.mark.parametrize(("before", "after"), [(1, 6), (3, 1)])
def test_a_takeover_with_another_number_of_workers(
    gateway: Gateway, before: int, after: int
) -> None:
    killed(gateway.serving(workers=before))
    old = {gateway.worker_of(slot) for slot in range(before)}
    gateway.serving(workers=after)
    retired(gateway, old)
    new = {gateway.worker_of(slot) for slot in range(after)}
    for _ in range(20):
        assert gateway.tell("who")["pid"] in new
    board = board_of(gateway, gateway.slab_of(0))
    assert {worker.pid for worker in board.workers()} == new
    assert board.words[layout.H_SLOTS] == after
    board.close()


def test_a_takeover_with_other_listeners(gateway: Gateway, tmp_path: Path) -> None:
    kept, dropped = f"unix:{tmp_path}/kept.sock", "127.0.0.1:0"
    killed(gateway.serving(listen=(dropped, kept)))
    gone = gateway.addresses["listen"][0]
    old = {gateway.worker_of(slot) for slot in (0, 1)}
    gateway.serving(listen=(kept, "localhost:0"), admin=f"unix:{tmp_path}/admin.sock")
    retired(gateway, old)
    assert gateway.addresses["listen"][0] == kept
    assert gateway.tell("who", gateway.addresses["listen"][1])["slot"] in {0, 1}
    if gateway.addresses["listen"][1] != gone:
        with pytest.raises(ConnectionRefusedError):
            gateway.connect(gone)


def test_an_address_spelled_in_another_way_is_the_same(gateway: Gateway) -> None:
    killed(gateway.serving(workers=1, admin="localhost:0"))
    admin = gateway.addresses["admin"]
    gateway.serving(admin="127.0.0.1:0")
    assert gateway.addresses["admin"] == admin


def test_a_hung_worker_does_not_stop_a_takeover(gateway: Gateway) -> None:
    killed(gateway.serving(workers=1))
    hung = gateway.tell("hang")["pid"]
    gateway.serving()
    assert not alive(hung)
    assert f"process {hung}" not in gateway.said().partition("taken over")[2]
    assert gateway.tell("who")["pid"] != hung


def test_a_worker_still_starting_is_found_without_its_socket(gateway: Gateway) -> None:
    supervisor = gateway.start(workers=1, worker_argv=fake("mute"))
    until(lambda: gateway.events("start", "worker-0"), "the worker to start")
    until((gateway.run_dir / "control-admin.sock").exists, "control to serve")
    mute = gateway.events("start", "worker-0")[0].pid
    killed(supervisor)
    # The same command, or it would not be known as ours; this time it serves.
    os.environ["FAKE_CHILD_SERVES"] = "1"
    try:
        gateway.start()
        retired(gateway, {mute})
    finally:
        del os.environ["FAKE_CHILD_SERVES"]
    assert f"(process {mute}) of an earlier run does not answer" in gateway.said()
    assert gateway.tell("who")["pid"] != mute


def test_nobody_left_is_an_ordinary_start(gateway: Gateway) -> None:
    killed(gateway.serving())
    for event in gateway.events("start"):
        os.kill(event.pid, signal.SIGKILL)
    until(lambda: not any(alive(e.pid) for e in gateway.events("start")), "all to be gone")
    assert (gateway.run_dir / "worker-0.sock").exists()
    gateway.serving()
    assert "taken over" not in gateway.said()
    assert gateway.tell("who")["slot"] in {0, 1}


def test_an_earlier_snapshot_is_kept_for_control_only_while_workers_run(gateway: Gateway) -> None:
    killed(gateway.serving(workers=1))
    snapshot = gateway.run_dir / "snapshot-0123.bin"
    snapshot.write_bytes(b"what the workers serve")
    supervisor = gateway.serving()
    assert snapshot.exists()
    killed(supervisor)
    for pid in gateway.left_running():
        os.kill(pid, signal.SIGKILL)
    until(lambda: not any(map(alive, gateway.left_running())), "all to be gone")
    gateway.serving()
    assert not snapshot.exists()


def test_a_takeover_of_a_takeover(gateway: Gateway) -> None:
    """Workers that drain from the one before are watched, and hand over no sockets."""
    killed(gateway.serving(workers=1))
    held = gateway.connect()
    first = say_to(held, "hold")["pid"]
    supervisor = gateway.serving()
    second = gateway.worker_of(0)
    until(lambda: gateway.events("term", "worker-0"), "the first to drain")
    killed(supervisor)
    gateway.serving()
    retired(gateway, {second})
    assert alive(first)
    third = gateway.worker_of(0)
    for _ in range(5):
        assert gateway.tell("who")["pid"] == third
    held.close()
    retired(gateway, {first})
    assert gateway.said().count(f"worker 0 (process {first})") == 2


def test_clients_meet_no_error_during_a_takeover(gateway: Gateway) -> None:
    killed(gateway.serving())
    answers: list[dict[str, Any]] = []
    gateway.start()
    # The new run rewrites the same address: the port was taken over.
    while len(gateway.events("exit")) < 2:
        answers.append(gateway.tell("who"))
    assert len({answer["boot"] for answer in answers}) == 2


def test_a_stranger_with_our_variable_is_left_alone(gateway: Gateway, tmp_path: Path) -> None:
    """A shell that someone started with a child's environment is no child."""
    supervisor = gateway.serving(workers=1)
    environ = Path(f"/proc/{gateway.worker_of(0)}/environ").read_bytes().split(b"\0")
    spec = next(each for each in environ if each.startswith(b"GATEWAY_CHILD="))
    env = {**os.environ, "GATEWAY_CHILD": spec.partition(b"=")[2].decode()}
    stranger = subprocess.Popen(["sleep", "60"], env=env)
    try:
        killed(supervisor)
        gateway.serving()
        assert stranger.poll() is None
        assert f"(process {stranger.pid})" not in gateway.said()
    finally:
        stranger.kill()
        stranger.wait()


def test_an_old_board_of_another_layout_is_left_behind(gateway: Gateway) -> None:
    killed(gateway.serving(workers=1))
    old = gateway.worker_of(0)
    board = board_of(gateway, 0)
    board.words[layout.H_LAYOUT] = layout.LAYOUT + 1
    board.close()
    gateway.serving()
    assert "board cannot be used" in gateway.said()
    retired(gateway, {old})
    assert gateway.tell("who")["pid"] == gateway.worker_of(0)
