"""The units of ``config/systemd`` under a real systemd, which is process 1 of its own namespaces.

What is changed of them is said in ``DROP_INS``: an address, a log file, a short watchdog.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.demo.ports import free_ports
from gateway.version import VERSION
from loadtests.mixed.backend import Backend
from loadtests.mixed.clients import Clients
from tests.supervisor.supervised import copy_of_package
from tests.support.gateway import TOKEN, GatewayProcess, config_for
from tests.support.processes import ROOT, wait_until
from tests.support.rawclient import RawClient
from tests.support.systemd import USER, Machine, need_systemd

pytestmark = [pytest.mark.outside, pytest.mark.timeout(180)]

SERVICE = "gateway.service"
SOCKET = "gateway.socket"
FILE = "/etc/gateway/gateway.yaml"
#: Seconds.
WATCHDOG = 3

DROP_INS = {
    SERVICE: (
        "[Service]\nStandardOutput=append:/run/rig/gateway.log\nStandardError=inherit\n"
        f"WatchdogSec={WATCHDOG}s\n"
    ),
    SOCKET: "[Socket]\nListenStream=\nListenStream=127.0.0.1:{port}\n",
}


class Service:
    """The gateway as a service of a machine of its own; not started yet."""

    def __init__(self, folder: Path, backend: Backend) -> None:
        self.machine = machine = Machine(folder)
        machine.install("gateway-1")
        machine.current("gateway-1")
        port, admin = free_ports(2)
        text = config_for(
            {"web": ([backend.url], [backend.url])},
            port=port,
            admin=admin,
            folder=Path("/var/lib/gateway"),
            workers=2,
            service_keys="    drain_timeout: 2s",
        )
        #: For its admin API: it is not started by this.
        self.gateway = GatewayProcess(text, machine.config, port=port, admin=admin)
        (machine.config / "environment").write_text(f"GATEWAY_TEST_TOKEN={TOKEN}\n")
        for unit, drop_in in DROP_INS.items():
            machine.drop_in(unit, drop_in.format(port=port))

    @property
    def main_pid(self) -> str:
        """The supervisor's number, as the machine's systemd has it."""
        return self.machine.show("MainPID")[0]

    @property
    def status(self) -> str:
        """What the gateway has told of itself."""
        return self.machine.show("StatusText")[0]

    @property
    def restarts(self) -> int:
        """How often systemd has started it again by itself."""
        return int(self.machine.show("NRestarts")[0])

    def is_(self, state: str) -> bool:
        """Tell whether the service is in a state."""
        return self.machine.show("ActiveState")[0] == state

    def start(self, *units: str) -> None:
        """Start it, with these units."""
        self.machine.done("start", *units, SERVICE)

    def check_status(self, expected: str) -> None:
        """Wait for what it tells of itself."""
        self.check(lambda: self.status == expected, expected)

    def check(self, condition: Callable[[], object], what: str) -> None:
        """Wait for something, or fail with what everybody said."""
        wait_until(condition, lambda: f"{what}:\n{self.machine.said()[-6000:]}")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    need_systemd()
    with Backend() as backend:
        made = Service(tmp_path, backend)
        with made.machine:
            yield made


@contextmanager
def load(service: Service) -> Iterator[Clients]:
    """Clients that have begun, and go on afterwards; none of them may have lost anything."""
    clients = Clients(service.gateway.port)
    try:
        service.check(lambda: clients.done["message"] > 5 and clients.done["upload"], "a start")
        yield clients
        before = clients.done.copy()
        service.check(
            lambda: (
                clients.lost
                or all(clients.done[kind] > before[kind] + 5 for kind in ("kept", "fresh"))
            ),
            "requests afterwards",
        )
    finally:
        clients.stop()
    print(dict(clients.done), dict(clients.closes))
    assert clients.lost == [], service.machine.said()[-6000:]


def test_the_units_are_as_systemd_wants_them(service: Service) -> None:
    units = [f"/etc/systemd/system/{unit}" for unit in DROP_INS]
    verified = service.machine.run("systemd-analyze", "verify", *units)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    security = service.machine.run("systemd-analyze", "security", "--no-pager", SERVICE)
    found = re.search(r"Overall exposure level for gateway\.service: ([0-9.]+)", security.stdout)
    assert found, security
    print(found[0])
    assert float(found[1]) <= 2.1, security.stdout


def test_started_means_that_every_worker_serves(service: Service, tmp_path: Path) -> None:
    edit = ("    spec = ", "    __import__('time').sleep(2)\n    spec = ")
    slow = copy_of_package(tmp_path / "slow", "99.0.0", **{"worker/__main__": edit})
    service.machine.install("gateway-slow", slow)
    service.machine.current("gateway-slow")
    began = time.monotonic()
    service.machine.done("start", "--no-block", SERVICE)
    service.check(lambda: service.is_("activating"), "it to start")
    service.start()
    assert time.monotonic() - began > 2
    assert service.gateway.api("GET", "/readyz").status == 200
    assert service.status == "version 99.0.0, 2 workers serve"
    assert service.machine.show("User", "ExecMainStatus") == ["gateway", "0"]


def test_the_access_log_is_written_where_the_manual_has_it(service: Service) -> None:
    file = service.machine.config / "gateway.yaml"
    text = file.read_text()
    said = "access_log: /var/lib/gateway/access.log"
    assert said in text
    log = "/var/log/gateway/access.log"
    assert log in (ROOT / "docs" / "operations.md").read_text()
    file.write_text(text.replace(said, f"access_log: {log}"))
    service.start()
    with RawClient(service.gateway.port) as client:
        assert client.get("/logged").status == 200
    lines = service.machine.inside(log)
    service.check(lambda: lines.exists() and "/logged" in lines.read_text(), "a line")
    assert lines.parent.stat().st_mode & 0o777 == 0o750


def test_a_wrong_configuration_is_not_tried_again(service: Service) -> None:
    service.gateway.path.write_text("version: 1\nservces: {}\n")
    assert service.machine.systemctl("start", SERVICE).returncode != 0
    found = service.machine.show("ActiveState", "Result", "ExecMainStatus", "NRestarts")
    assert found == ["failed", "exit-code", "2", "0"]
    assert "servces" in service.machine.said()


def test_a_reload_is_told_of_and_a_wrong_file_changes_nothing(service: Service) -> None:
    machine = service.machine
    waits = int(machine.systemctl("--version").stdout.split()[1]) >= 253
    if waits:
        # What the unit's comment says.
        machine.drop_in(
            SERVICE,
            DROP_INS[SERVICE].replace("[Service]", "[Service]\nType=notify-reload\nExecReload="),
        )
        machine.done("daemon-reload")
    service.start()
    main, good = service.main_pid, service.gateway.path.read_text()
    at_once = 0
    for turn in range(3):
        # The routes tell which file is in force: the good one of this turn, after both reloads.
        new = good.replace("path: /,", f"path: /turn{turn}/,")
        assert new != good
        for text, end in (
            (new, "reloaded"),
            (good.replace("services:", "servces:"), "the last reload was refused"),
        ):
            service.gateway.path.write_text(text)
            machine.done("reload", SERVICE)
            expected = f"version {VERSION}, 2 workers serve, {end}"
            at_once += service.status == expected
            service.check_status(expected)
            with RawClient(service.gateway.port) as client:
                found = [client.get(f"/turn{each}/").status for each in (turn, turn + 1)]
            assert found == [200, 404]
    print(f"{at_once} of 6 reloads were done once systemctl returned")
    assert at_once == 6 or not waits
    assert machine.show("MainPID", "ActiveState") == [main, "active"]


def test_a_restart_with_the_socket_unit_refuses_and_loses_nothing(service: Service) -> None:
    service.start(SOCKET)
    mains = {service.main_pid}
    with load(service):
        for _ in range(3):
            began = time.monotonic()
            service.machine.done("restart", SERVICE)
            print(f"restart: {time.monotonic() - began:.1f} s")
            mains.add(service.main_pid)
    assert len(mains) == 4
    assert service.restarts == 0


def test_an_upgrade_is_no_restart(service: Service, tmp_path: Path) -> None:
    service.machine.install("gateway-2", copy_of_package(tmp_path / "newer", "99.0.0"))
    service.start(SOCKET)
    main = service.main_pid
    with load(service):
        for name, user in (("gateway-2", USER), ("gateway-1", ())):
            verb = [f"/opt/{name}/bin/gateway", "upgrade", "--config", FILE]
            done = service.machine.run(*user, *verb)
            assert done.returncode == 0, done.stderr + service.machine.said()[-4000:]
            service.machine.current(name)
            assert service.machine.show("MainPID", "ActiveState") == [main, "active"]
        # The watchdog is kept content by the new version, too.
        time.sleep(WATCHDOG * 1.5)
    assert service.status == f"version {VERSION}, 2 workers serve"
    assert service.machine.show("MainPID", "ActiveState", "NRestarts") == [main, "active", "0"]


@pytest.mark.parametrize("units", [[SOCKET], []], ids=["with the socket unit", "without"])
def test_the_watchdog_replaces_a_supervisor_that_stands_still(
    service: Service, units: list[str]
) -> None:
    service.start(*units)
    main = service.main_pid
    with load(service):
        stopped = time.monotonic()
        assert service.machine.run("kill", "-STOP", main).returncode == 0
        service.check(lambda: service.restarts == 1 and service.is_("active"), "a restart")
        print(f"back after {time.monotonic() - stopped:.1f} s")
        assert service.main_pid not in {main, "0"}
        service.check(service.gateway.is_ready, "it to be ready")
    assert "taken over from an earlier run" in service.machine.said()
    # Only the new one's children are left once the old ones have drained.
    service.check(lambda: len(processes(service)) == 5, "old workers to have ended")


def processes(service: Service) -> list[str]:
    """Return the gateway's processes."""
    return service.machine.run("pgrep", "--uid", "gateway").stdout.split()


def test_killed_by_force_it_is_started_again_and_those_who_wait_are_served(
    service: Service,
) -> None:
    service.start(SOCKET)
    # Fresh connections alone: what the killed have in hand is lost, what waits is not.
    service.machine.done("kill", "--kill-whom=all", "--signal=SIGKILL", SERVICE)
    clients = Clients(service.gateway.port, kept=0, fresh=2, others=0)
    try:
        service.check(lambda: clients.lost or clients.done["fresh"] > 20, "clients to be served")
    finally:
        clients.stop()
    assert clients.lost == []
    assert service.restarts == 1


def test_stop_finishes_what_is_in_flight_and_is_no_failure(service: Service) -> None:
    service.start()
    clients = Clients(service.gateway.port, kept=0, fresh=0, others=2)
    try:
        service.check(lambda: clients.done["message"] > 5 and clients.done["event"] > 5, "a start")
        clients.give_up()
        began = time.monotonic()
        service.machine.done("stop", SERVICE)
        seconds = time.monotonic() - began
    finally:
        clients.stop()
    print(f"stop: {seconds:.1f} s")
    assert clients.lost == []
    assert seconds < 2 + 5
    found = service.machine.show("ActiveState", "Result", "ExecMainStatus")
    assert found == ["inactive", "success", "0"]
    assert processes(service) == []
