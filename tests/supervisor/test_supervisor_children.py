from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.channel.handover import ask_state
from tests.supervisor.supervised import Event, Gateway, alive, fake, say_to, until


@pytest.fixture
def crowd(gateway: Gateway) -> Iterator[list[dict[str, Any] | Exception]]:
    """Three clients that ask without a pause until told to stop; their answers and errors."""
    answers: list[dict[str, Any] | Exception] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            if not (gateway.run_dir / "addresses.json").exists():
                continue
            try:
                answers.append(gateway.tell("who"))
            except Exception as error:  # noqa: BLE001 -- whatever it is, the test shows it
                answers.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    yield answers
    stop.set()
    for thread in threads:
        thread.join()


def pids_of(answers: list[dict[str, Any] | Exception]) -> set[int]:
    return {answer["pid"] for answer in answers if isinstance(answer, dict)}


def test_every_slot_is_filled_and_all_serve(gateway: Gateway) -> None:
    gateway.serving()
    until(lambda: {gateway.tell("who")["slot"] for _ in range(8)} == {0, 1}, "both slots")
    assert gateway.tell_control("who")["slot"] == -1
    assert (gateway.run_dir.stat().st_mode & 0o777) == 0o700
    for name in ("lock", "control.sock", "worker-0.sock", "worker-1.sock"):
        assert ((gateway.run_dir / name).stat().st_mode & 0o777) == 0o600


def test_a_killed_worker_is_replaced_on_the_same_sockets(gateway: Gateway) -> None:
    gateway.serving(workers=1)
    old = gateway.tell("who")
    os.kill(old["pid"], signal.SIGKILL)
    # Nobody accepts for a moment: the connection waits in the queue, and is served.
    new = gateway.tell("who")
    assert new["pid"] != old["pid"]
    assert (new["slot"], new["slab"], new["boot"]) == (old["slot"], old["slab"], old["boot"])
    assert f"worker 0 (process {old['pid']}) ended by SIGKILL; started again" in gateway.said()


def test_connections_made_while_no_worker_lives_are_served(gateway: Gateway) -> None:
    gateway.serving(workers=1)
    gateway.tell("die")
    waiting = [gateway.connect() for _ in range(20)]
    for connection in waiting:
        assert say_to(connection, "who")["slot"] == 0
        connection.close()


def test_no_client_is_refused_while_workers_die(
    gateway: Gateway, crowd: list[dict[str, Any] | Exception]
) -> None:
    gateway.serving(worker_argv=fake("serve"))
    until(lambda: len(crowd) > 20, "first answers")
    # `die` comes through a client of its own: it is that connection alone that is lost.
    victims = {gateway.tell("die")["pid"] for _ in range(2)}
    before = len(crowd)
    until(lambda: len(crowd) > before + 50, "answers after that")
    assert not victims & pids_of(crowd[before + 10 :])
    # A worker that dies takes the requests in its hands with it, and nothing else.
    lost = [each for each in crowd if isinstance(each, Exception)]
    assert not [each for each in lost if isinstance(each, ConnectionRefusedError)]
    assert len(lost) <= 3 * len(victims), lost


def test_a_hung_worker_is_replaced(gateway: Gateway) -> None:
    gateway.serving(workers=1)
    old = gateway.tell("hang")
    new = gateway.tell("who")
    assert new["pid"] != old["pid"]
    assert not alive(old["pid"])
    assert f"worker 0 (process {old['pid']}) hangs and is killed" in gateway.said()


def test_a_worker_that_never_gets_ready_is_replaced(gateway: Gateway) -> None:
    gateway.start(workers=1, worker_argv=fake("mute"), start_limit=0.5)
    until(lambda: len(gateway.events("start", "worker-0")) >= 2, "a second try")


def test_a_crash_loop_backs_off(gateway: Gateway) -> None:
    gateway.start(workers=1, worker_argv=fake("crash"))

    def starts() -> list[Event]:
        return gateway.events("start", "worker-0")

    until(lambda: len(starts()) >= 5, "five tries")
    gaps = [after.at - before.at for before, after in itertools.pairwise(starts()[:5])]
    # At once, then 0.1, 0.2 and 0.4 s after each death.
    for gap, least in zip(gaps[1:], (0.1, 0.2, 0.4), strict=True):
        assert gap >= least
    assert "started again in 0.4 s" in gateway.said()


def test_a_program_that_is_not_there_is_told_and_tried_again(gateway: Gateway) -> None:
    gateway.start(workers=1, worker_argv=("/nonexistent/program",))
    until(lambda: gateway.said().count("no process for worker 0") >= 2, "two tries")
    assert gateway.tell_control("who")["slot"] == -1


def test_control_is_back_while_workers_serve_on(gateway: Gateway) -> None:
    gateway.serving()
    workers = {gateway.worker_of(slot) for slot in (0, 1)}
    old = gateway.tell_control("die")
    new = gateway.tell_control("who")
    assert new["pid"] != old["pid"]
    assert {gateway.worker_of(slot) for slot in (0, 1)} == workers
    assert f"control (process {old['pid']}) exited with 3; started again" in gateway.said()


def test_a_hung_control_is_replaced(gateway: Gateway) -> None:
    gateway.serving(control_silence=0.5)
    old = gateway.tell_control("hang")
    assert gateway.tell_control("who")["pid"] != old["pid"]


def test_a_hang_up_goes_to_control(gateway: Gateway) -> None:
    supervisor = gateway.serving()
    control = gateway.tell_control("who")["pid"]
    supervisor.send_signal(signal.SIGHUP)
    until(lambda: gateway.events("hup", "control"), "the reload")
    assert gateway.events("hup") == gateway.events("hup", "control")
    assert alive(control)


def test_an_early_hang_up_waits_until_control_can_take_it(gateway: Gateway) -> None:
    supervisor = gateway.start()
    until(lambda: gateway.events("start", "control"), "control to start")
    supervisor.send_signal(signal.SIGHUP)
    until(lambda: gateway.events("hup", "control"), "the reload")
    assert len(gateway.events("start", "control")) == 1


def test_the_end_drains_workers_then_control(gateway: Gateway) -> None:
    supervisor = gateway.serving()
    held = [gateway.connect() for _ in range(4)]
    for connection in held:
        say_to(connection, "hold")
    supervisor.send_signal(signal.SIGTERM)
    until(lambda: len(gateway.events("term")) == 2, "workers to be told")
    for connection in held:
        connection.close()
    assert supervisor.wait(10) == 0
    order = [(each.name.partition("-")[0], each.what) for each in gateway.events()][3:]
    assert order[:2] == [("worker", "term")] * 2
    assert order[2:4] == [("worker", "exit")] * 2
    assert order[4:] == [("control", "term"), ("control", "exit")]
    left = {path.name for path in gateway.run_dir.iterdir()}
    assert left == {"lock", "events.log"}


def test_a_repeated_sigterm_changes_nothing(gateway: Gateway) -> None:
    supervisor = gateway.serving(workers=1)
    held = gateway.connect()
    say_to(held, "hold")
    supervisor.send_signal(signal.SIGTERM)
    until(lambda: gateway.events("term"), "the worker to be told")
    supervisor.send_signal(signal.SIGTERM)
    supervisor.send_signal(signal.SIGINT)
    held.close()
    assert supervisor.wait(10) == 0
    assert len(gateway.events("term", "worker-0")) == 1


def test_a_worker_that_will_not_end_is_killed(gateway: Gateway) -> None:
    supervisor = gateway.serving(workers=1, drain_timeout=0.2, grace=0.1)
    told = gateway.tell("stubborn")
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(10) == 0
    assert not alive(told["pid"])
    assert "has not ended in time and is killed" in gateway.said()


def test_a_second_interrupt_ends_all_at_once(gateway: Gateway) -> None:
    supervisor = gateway.serving(workers=1)
    held = gateway.connect()
    pids = [say_to(held, "hold")["pid"], gateway.tell_control("who")["pid"]]
    supervisor.send_signal(signal.SIGINT)
    until(lambda: gateway.events("term"), "the worker to be told")
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(5) == 130
    assert not any(map(alive, pids))
    held.close()


def test_children_are_out_of_the_terminals_reach(gateway: Gateway) -> None:
    supervisor = gateway.serving(workers=1)
    for pid in (gateway.worker_of(0), gateway.tell_control("who")["pid"]):
        assert os.getpgid(pid) != os.getpgid(supervisor.pid)
        assert os.getsid(pid) == pid


def test_children_inherit_their_sockets_and_nothing_else(gateway: Gateway) -> None:
    gateway.serving(workers=2)

    def names() -> list[str]:
        entries = Path(f"/proc/{gateway.worker_of(0)}/fd").iterdir()
        with contextlib.suppress(FileNotFoundError):  # the answer to who just asked is closed
            return [str(entry.readlink()) for entry in entries if int(entry.name) > 2]
        return []

    # Its listener and its own socket.
    until(lambda: sum(name.startswith("socket:") for name in names()) == 2, "two sockets")
    assert not any("lock" in name for name in names())
    environ = Path(f"/proc/{gateway.worker_of(0)}/environ").read_bytes()
    assert b"GATEWAY_CHILD=" in environ
    assert b"GATEWAY_PLAN=" not in environ


def test_a_worker_tells_its_state_on_its_own_socket(gateway: Gateway) -> None:
    gateway.serving()
    state = until(lambda: ask_state(gateway.run_dir / "worker-1.sock"), "the state")
    assert (state.slot, state.slab, state.state) == (1, 1, "ready")
    assert state.pid == gateway.worker_of(1)


def test_a_full_standard_error_stops_nothing(gateway: Gateway, tmp_path: Path) -> None:
    """A pipe that nobody reads must not make the supervisor wait in the middle of its watch."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    try:
        while True:
            os.write(write_end, b"x" * 65536)
    except BlockingIOError:
        os.set_blocking(write_end, True)
    gateway.stderr = write_end
    gateway.serving(workers=1)
    for _ in range(3):
        old = gateway.tell("die")
        assert gateway.tell("who")["pid"] != old["pid"]
    os.close(read_end)
    os.close(write_end)


@pytest.mark.parametrize("plan", [None, "nonsense", json.dumps({"listen": []})])
def test_without_a_plan_it_says_so(plan: str | None) -> None:
    from gateway.supervisor import plan as plans

    env = plans.environment("UNUSED", "")
    if plan is not None:
        env[plans.VARIABLE] = plan
    done = subprocess.run(
        plans.python("gateway.supervisor"), env=env, capture_output=True, check=False, timeout=30
    )
    assert done.returncode == 2
    assert b"GATEWAY_PLAN" in done.stderr
    assert b"Traceback" not in done.stderr


def test_an_ipv6_and_a_unix_listener(gateway: Gateway, tmp_path: Path) -> None:
    path = tmp_path / "public.sock"
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        listen: tuple[str, ...] = ("127.0.0.1:0", "[::1]:0", f"unix:{path}")
    except OSError:
        listen = ("127.0.0.1:0", f"unix:{path}")
    supervisor = gateway.serving(listen=listen)
    for address in gateway.addresses["listen"][:-1]:
        assert gateway.tell("who", address)["pid"]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10.0)
        connection.connect(str(path))
        assert say_to(connection, "who")["pid"]
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(10) == 0
    assert not path.exists()
