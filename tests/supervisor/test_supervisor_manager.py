"""What a service manager is told, and the sockets that it gives; a fake systemd is one."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from configparser import RawConfigParser
from pathlib import Path

import pytest

from gateway.board import layout
from gateway.supervisor import plan as plans
from gateway.supervisor import upgrade
from gateway.supervisor.notify import Notifier
from tests.supervisor.supervised import Gateway, alive, say_to, until
from tests.supervisor.test_supervisor_upgrade import board_of

UNITS = Path(__file__).parents[2] / "config" / "systemd"


class Systemd:
    """The receiving end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.variable = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.settimeout(0.0)
        self.heard: list[dict[str, str]] = []

    def listen(self) -> None:
        while True:
            try:
                text = self._socket.recv(4096).decode()
            except BlockingIOError:
                return
            self.heard.append(dict(line.split("=", 1) for line in text.split("\n")))

    def told(self, name: str, after: int = 0) -> dict[str, str]:
        """Wait for a message that has ``name``; return it."""

        def look() -> dict[str, str]:
            self.listen()
            return next((each for each in self.heard[after:] if name in each), {})

        return until(look, f"{name} among {self.heard}")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Systemd]:
    address = str(tmp_path / "n") if request.param == "path" else f"@gateway-test-{os.getpid()}"
    made = Systemd(address)
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    yield made
    made.close()


def test_it_is_told_of_a_whole_life(systemd: Systemd, gateway: Gateway) -> None:
    supervisor = gateway.serving(workers=1)
    ready = systemd.told("READY")
    assert ready == {
        "READY": "1",
        "MAINPID": str(supervisor.pid),
        "STATUS": f"version {upgrade.read_about(gateway.run_dir).version}, 1 workers serve",  # type: ignore[union-attr]
    }
    # Not before: control and the worker had said so on the board.
    assert [each for each in systemd.heard if "READY" in each] == [ready]

    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    supervisor.send_signal(signal.SIGHUP)
    reloading = systemd.told("RELOADING")
    assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    until(lambda: gateway.events("hup"), "control to be told")
    # The stand-in has read nothing yet; what control says on the board ends the reload.
    heard = len(systemd.heard)
    board = board_of(gateway)
    board.words[layout.H_RELOADS_REFUSED] += 1
    board.words[layout.H_RELOADS] += 1
    board.close()
    assert systemd.told("READY", heard)["STATUS"].endswith(", the last reload was refused")

    heard = len(systemd.heard)
    assert gateway.upgraded().state == upgrade.DONE
    assert systemd.told("READY", heard)["MAINPID"] == str(supervisor.pid)

    heard = len(systemd.heard)
    supervisor.send_signal(signal.SIGTERM)
    assert systemd.told("STOPPING", heard)["STOPPING"] == "1"
    assert supervisor.wait(15) == 0


def test_its_watchdog_is_content(
    systemd: Systemd, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    supervisor = gateway.serving(workers=1)

    def beats() -> int:
        systemd.listen()
        return sum("WATCHDOG" in each for each in systemd.heard)

    until(lambda: beats() >= 2, "the watchdog to be told")
    at, before = time.monotonic(), beats()
    until(lambda: beats() >= before + 4, "further beats")
    # Half of the time between two: neither silence nor a flood.
    assert 1.0 < time.monotonic() - at < 6.0
    supervisor.send_signal(signal.SIGSTOP)
    seen = beats()
    time.sleep(0.7)
    assert beats() == seen
    supervisor.send_signal(signal.SIGCONT)
    until(lambda: beats() > seen, "it to go on")


def test_a_child_is_told_of_no_manager(systemd: Systemd, gateway: Gateway) -> None:
    gateway.serving(workers=1)
    environ = Path(f"/proc/{gateway.worker_of(0)}/environ").read_bytes()
    assert b"NOTIFY_SOCKET" not in environ
    assert systemd.told("READY")


def test_nobody_there_to_be_told_is_no_fault(tmp_path: Path) -> None:
    for where in ("", str(tmp_path / "nobody"), "@nobody-at-all", "vsock:2:1"):
        notifier = Notifier({"NOTIFY_SOCKET": where, "WATCHDOG_USEC": "1"})
        notifier.ready("fine")
        notifier.beat(1.0)
        notifier.close()
        notifier.stopping("closed")


@pytest.mark.parametrize(
    ("env", "every"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "3000000"}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_whose_watchdog_it_is(env: dict[str, str], every: float) -> None:
    assert Notifier(env).every == every


# --- socket activation ----------------------------------------------------------------------------

#: Becomes the supervisor with sockets from descriptor 3 on, as systemd has its services begin.
ACTIVATE = """
import os, sys
fds = [int(each) for each in sys.argv[1].split(",")]
high = [os.dup2(fd, 100 + at) for at, fd in enumerate(fds)]
for at, fd in enumerate(high):
    os.dup2(fd, 3 + at, inheritable=True)
os.environ.update(LISTEN_FDS=str(len(fds)), LISTEN_PID=str(os.getpid() + int(sys.argv[3])),
                  LISTEN_FDNAMES=sys.argv[2])
os.execv(sys.executable, [sys.executable, "-P", "-m", "gateway.supervisor"])
"""


def start_activated(
    gateway: Gateway, *sockets: socket.socket, names: str = "public", wrong_pid: bool = False
) -> subprocess.Popen[bytes]:
    fds = [each.fileno() for each in sockets]
    listed = ",".join(map(str, fds))
    with gateway.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", ACTIVATE, listed, names, str(int(wrong_pid))],
            env=plans.environment(plans.VARIABLE, gateway.plan.encode()),
            pass_fds=fds,
            stderr=log,
        )
    gateway.processes.append(process)
    return process


def listening(address: tuple[str, int] = ("127.0.0.1", 0)) -> tuple[socket.socket, str]:
    made = socket.create_server(address, backlog=64)
    return made, f"127.0.0.1:{made.getsockname()[1]}"


def planned(gateway: Gateway, **changes: object) -> None:
    import dataclasses

    gateway.plan = dataclasses.replace(gateway.plan, **changes)  # type: ignore[arg-type]


def test_activated_sockets_are_served_by_every_worker(gateway: Gateway, tmp_path: Path) -> None:
    public, address = listening()
    admin, admin_address = listening()
    path = tmp_path / "public.sock"
    local = socket.socket(socket.AF_UNIX)
    local.bind(str(path))
    local.listen()
    with public, admin, local:
        planned(gateway, listen=(address, f"unix:{path}", "127.0.0.1:0"), admin=admin_address)
        before = len(gateway.events("start"))
        supervisor = start_activated(gateway, admin, public, local, names="a:b:c")
        until(lambda: len(gateway.events("start")) >= before + 3, gateway.said())
        for slot in (0, 1):
            gateway.slab_of(slot)
        seen: set[int] = set()
        until(lambda: seen.add(gateway.tell("who", address)["slot"]) or len(seen) == 2, "both")  # type: ignore[func-returns-value]
        assert gateway.tell_control("who")["slot"] == -1
        assert gateway.tell("who", gateway.addresses["listen"][2])["slot"] in {0, 1}
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            assert say_to(client, "who")["slot"] in {0, 1}
        # An upgrade with more workers goes on with the same sockets.
        assert gateway.upgraded(workers=3).state == upgrade.DONE
        until(lambda: gateway.tell("who", address)["slot"] == 2, "the third worker")
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(15) == 0
        assert path.exists()
        # Whoever connects now waits for the next start.
        with gateway.connect(address) as waiting:
            start_activated(gateway, admin, public, local)
            assert say_to(waiting, "who")["slot"] in {0, 1, 2}


def test_a_restart_behind_activated_sockets_loses_nobody(gateway: Gateway) -> None:
    public, address = listening()
    with public:
        planned(gateway, listen=(address,), workers=1)
        for _ in range(3):
            supervisor = start_activated(gateway, public)
            for _ in range(5):
                assert gateway.tell("who", address)["slot"] == 0
            with gateway.connect(address) as kept:
                assert say_to(kept, "who")
            supervisor.send_signal(signal.SIGTERM)
            assert supervisor.wait(15) == 0


def test_killed_it_is_taken_over_with_the_managers_sockets(gateway: Gateway) -> None:
    public, address = listening()
    with public:
        planned(gateway, listen=(address,))
        supervisor = start_activated(gateway, public)
        old = {gateway.tell("who", address)["pid"]}
        until(lambda: gateway.slab_of(1) >= 0, "both workers")
        old = {gateway.worker_of(slot) for slot in (0, 1)}
        supervisor.kill()
        supervisor.wait()
        start_activated(gateway, public)
        until(lambda: not any(map(alive, old)), f"the old workers to end: {gateway.said()}")
        assert gateway.tell("who", address)["pid"] not in old


def test_a_dual_stack_socket_stands_for_ipv4_too(gateway: Gateway) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as public:
        port = public.getsockname()[1]
        planned(gateway, listen=(f"0.0.0.0:{port}",), workers=1)
        start_activated(gateway, public)
        assert gateway.tell("who", f"127.0.0.1:{port}")["slot"] == 0


def test_a_socket_that_fits_no_address_is_refused(gateway: Gateway) -> None:
    public, address = listening()
    with public:
        supervisor = start_activated(gateway, public, names="web")
        assert supervisor.wait(15) == 4
    assert f"LISTEN_FDS: web listens on {address}, which is no address of" in gateway.said()
    assert gateway.events() == []


def test_what_is_no_listening_socket_is_refused(gateway: Gateway) -> None:
    with socket.socket() as silent:
        supervisor = start_activated(gateway, silent)
        assert supervisor.wait(15) == 4
    assert "LISTEN_FDS: public: not a listening socket" in gateway.said()


def test_another_processs_sockets_are_not_taken(gateway: Gateway) -> None:
    public, _ = listening()
    with public:
        start_activated(gateway, public, wrong_pid=True)
        until(lambda: len(gateway.events("start")) >= 3, gateway.said())


# --- the unit files -------------------------------------------------------------------------------


def test_the_units_are_right(tmp_path: Path) -> None:
    for name in ("gateway.service", "gateway.socket"):
        text = (UNITS / name).read_text()
        parser = RawConfigParser(strict=False)
        parser.read_string(text)
        assert parser.sections()[0] == "Unit"
        # The program is not installed where the test runs.
        program = "/opt/gateway/current/bin/gateway"
        (tmp_path / name).write_text(text.replace(program, shutil.which("true") or "/bin/true"))
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze is not installed: the files were parsed only")
    done = subprocess.run(
        [verify, "verify", tmp_path / "gateway.service", tmp_path / "gateway.socket"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # What it says of the machine's other units is not ours.
    said = [line for line in done.stderr.splitlines() if str(tmp_path) in line]
    assert (done.returncode, said) == (0, [])


def test_the_service_gives_a_drain_its_time() -> None:
    text = (UNITS / "gateway.service").read_text()
    assert "TimeoutStopSec=60s" in text
    assert "Type=notify\n" in text
    assert "KillMode=process" in text
