"""The state store is deleted, cut or overwritten while control is down or runs, under load.

What is served does not change and no request is lost; it is said loudly; control is back soon.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.client.exits import Exit
from tests.support.gateway import TOKEN, GatewayProcess
from tests.support.processes import alive, children_of, wait_until
from tests.support.upstream import Upstream, always

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

#: Seconds in which a killed control process answers again: 2 on a machine that has time for it.
#: Here others may share the processors.
BACK = 8.0
#: Seconds that the supervisor waits before it starts one that had served again.
DELAY = 0.2
RELEASES = """
releases:
  steps: [{weight: 50, hold: 300s}, {weight: 100, hold: 300s}]
  min_requests: 10
  min_keys: 1
"""


class Crowd:
    """Visitors without cookies, each request another one; use as a context manager."""

    def __init__(self, url: str, visitors: int = 4) -> None:
        self.url = url
        self.sides: Counter[str] = Counter()
        self.lost: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._visit) for _ in range(visitors)]

    def _visit(self) -> None:
        while not self._over.is_set():
            try:
                with urllib.request.urlopen(self.url, timeout=10) as answer:
                    self.sides[answer.read().decode()] += 1
            except OSError as error:
                self.lost.append(str(error))
            time.sleep(0.01)

    def __enter__(self) -> Crowd:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for each in self._threads:
            each.join()

    def meets(self, count: int) -> None:
        """Wait for some more requests."""
        until = self.sides.total() + count
        wait_until(lambda: self.sides.total() >= until or bool(self.lost) or None, "requests")


@dataclass
class Place:
    """A gateway with two services, in two colors each, and its store's files."""

    gateway: GatewayProcess
    third: str

    @property
    def files(self) -> list[Path]:
        return [self.gateway.folder / f"gateway.db{suffix}" for suffix in ("", "-wal", "-shm")]

    def control(self) -> int | None:
        for pid in children_of(self.gateway.pid):
            with suppress(OSError):
                if b"gateway.control" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
        return None

    def is_back(self, old: int) -> bool:
        new = self.control()
        return new is not None and new != old and self.gateway.is_ready()

    @contextmanager
    def without_control(self) -> Iterator[None]:
        """Kill control with -9; it is started again at the end. The supervisor rests meanwhile."""
        old = self.control()
        assert old is not None
        os.kill(self.gateway.pid, signal.SIGSTOP)
        try:
            os.kill(old, signal.SIGKILL)
            wait_until(lambda: _dead(old) or None, "control is dead")
            yield
        finally:
            os.kill(self.gateway.pid, signal.SIGCONT)
        wait_until(
            lambda: self.is_back(old) or None, lambda: f"back: {self.gateway.said()[-3000:]}"
        )

    def kill(self) -> float:
        """Kill control with -9; return the seconds until another one answers."""
        old = self.control()
        assert old is not None
        began = time.monotonic()
        os.kill(old, signal.SIGKILL)
        wait_until(
            lambda: self.is_back(old) or None, lambda: f"back: {self.gateway.said()[-3000:]}"
        )
        return time.monotonic() - began

    def status(self) -> Any:
        return self.gateway.api("GET", "/v1/status").body

    def web(self) -> Any:
        [found] = [each for each in self.status()["services"] if each["name"] == "web"]
        return found

    def picture(self) -> Any:
        """Return what is in force, in so far as it is to stay."""
        shown = self.status()
        services = [
            (
                each["name"],
                each["weights"],
                [
                    (
                        pool["color"],
                        pool["role"],
                        pool["source"],
                        pool["generation"],
                        pool["closed"],
                        pool["isolated"],
                        [(one["url"], one["breaker"]) for one in pool["endpoints"]],
                    )
                    for pool in each["pools"]
                ],
            )
            for each in shown["services"]
        ]
        return services, shown["traffic_revision"], shown["mode"]

    def audit(self) -> list[str]:
        return [row["action"] for row in self.gateway.api("GET", "/v1/audit").body["rows"]]

    def metric(self, name: str) -> float:
        text = self.gateway.api("GET", "/metrics").body
        [line] = [each for each in text.splitlines() if each.startswith(f"{name} ")]
        return float(line.rpartition(" ")[2])

    def set_up(self) -> None:
        """Have in force all that no configuration says."""
        put = self.gateway.api(
            "PUT",
            "/v1/services/web/pools/candidate",
            {"endpoints": [self.third], "wait": "20s"},
        )
        assert put.status == 200, put
        self.gateway.set_weight(30)
        for path, body in (
            ("/v1/services/api/isolate", {"color": "candidate", "force": True}),
            ("/v1/services/api/maintenance", {"retry_after": "60s"}),
        ):
            answer = self.gateway.api("POST", path, body)
            assert answer.status == 200, answer
        [blue] = [each for each in self.web()["pools"] if each["color"] == "blue"]
        ident = blue["endpoints"][0]["id"]
        answer = self.gateway.api("POST", f"/v1/breakers/{ident}/open", {})
        assert answer.status == 200, answer

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "gateway", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            **self.gateway.env,
            "GATEWAY_ADMIN": self.gateway.admin_url,
            "GATEWAY_TOKEN": TOKEN,
        }

    def rollback_local(self, *more: str) -> None:
        done = subprocess.run(
            self.command("rollback", "--local", "--config", str(self.gateway.path), *more),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done


def _dead(pid: int) -> bool:
    """Tell whether a process is gone, or a zombie that its resting parent has not reaped."""
    if not alive(pid):
        return True
    try:
        return b") Z " in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return True


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with (
        Upstream(always(b"blue")) as blue,
        Upstream(always(b"green")) as green,
        Upstream(always(b"third")) as third,
    ):
        gateway = GatewayProcess.for_services(
            tmp_path,
            {
                "web": ([blue.url, third.url], [green.url]),
                "api": ([blue.url], [green.url]),
            },
            workers=2,
            extra=RELEASES,
        )
        with gateway:
            yield Place(gateway, third.url)


def deleted(place: Place) -> None:
    for each in place.files:
        each.unlink(missing_ok=True)


def emptied(place: Place) -> None:
    for each in place.files:
        os.truncate(each, 0)


def garbage(place: Place) -> None:
    for each in place.files:
        each.write_bytes(os.urandom(50_000))


def a_folder(place: Place) -> None:
    deleted(place)
    place.files[0].mkdir()


DAMAGES = [deleted, emptied, garbage, a_folder]
Damage = Callable[[Place], None]


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_in_force_stays_where_the_store_is_lost_while_control_is_down(
    place: Place, damage: Damage
) -> None:
    place.set_up()
    before = place.picture()
    with Crowd(place.gateway.url) as crowd:
        crowd.meets(20)
        with place.without_control():
            damage(place)
            crowd.meets(20)
        crowd.meets(20)
    assert crowd.lost == []
    assert place.picture() == before
    assert any("rebuilt from" in each for each in place.status()["warnings"])
    assert "state.rebuilt" in place.audit()
    assert place.metric("gateway_state_rebuilt_timestamp_seconds") > time.time() - 120
    assert any(
        " ERROR " in line and ": the audit log" in line
        for line in place.gateway.said().splitlines()
    )


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_store_that_is_lost_below_control_is_made_again(place: Place, damage: Damage) -> None:
    place.set_up()
    before = place.picture()
    with Crowd(place.gateway.url) as crowd:
        damage(place)
        # Garbage is met by whoever reads or writes next. Emptied below their mapping, SQLite's
        # files end the process (SIGBUS), and the next one rebuilds.
        if damage in {deleted, a_folder}:
            wait_until(
                lambda: (
                    any("while it was in use" in each for each in place.status()["warnings"])
                    or None
                ),
                "it is noticed",
            )
        assert place.picture() == before
        place.kill()
        crowd.meets(20)
    assert crowd.lost == []
    assert place.picture() == before
    if damage in {deleted, a_folder}:
        assert "state.rebuilt" in place.audit()
        assert "pool.put" in place.audit(), "nothing of it was lost"
    else:
        assert any("rebuilt from" in each for each in place.status()["warnings"])


def test_workers_are_asked_where_the_snapshot_is_lost_with_the_store(place: Place) -> None:
    place.set_up()
    before = place.picture()
    with Crowd(place.gateway.url) as crowd, place.without_control():
        deleted(place)
        for each in (place.gateway.folder / "run").glob("snapshot-*"):
            each.unlink()
        crowd.meets(20)
    assert crowd.lost == []
    services, _, mode = place.picture()
    assert (services, mode) == (before[0], before[2])
    assert "going on from what 2 workers serve" in place.gateway.said()


def test_all_of_it_lost_is_the_configuration_again(place: Place) -> None:
    place.set_up()
    place.gateway.stop()
    deleted(place)
    for each in (place.gateway.folder / "run").glob("snapshot-*"):
        each.unlink()
    place.gateway.start()
    assert place.web()["weights"]["candidate"] == 0


def test_ten_kills_lose_nothing_and_take_no_longer_each_time(place: Place) -> None:
    place.set_up()
    before = place.picture()
    took = []
    with Crowd(place.gateway.url) as crowd:
        for number in range(10):
            if number == 4:
                with place.without_control():
                    deleted(place)
            took.append(place.kill())
            assert place.picture() == before
    print("back after", [round(each, 2) for each in took])
    assert crowd.lost == []
    assert crowd.sides.total() > 100
    assert max(took) < BACK, took
    delays = re.findall(r"control .* started again in ([0-9.]+) s", place.gateway.said())
    assert all(float(each) <= DELAY for each in delays), delays
    # Whoever comes late is told, too: five kills ago it was lost.
    assert any("was deleted" in each for each in place.status()["warnings"])


def sides(place: Place, count: int = 60) -> Counter[str]:
    found: Counter[str] = Counter()
    for _ in range(count):
        with urllib.request.urlopen(place.gateway.url, timeout=10) as answer:
            found[answer.headers.get("X-Gateway-Color", "") or answer.read().decode()] += 1
    return found


def test_a_local_rollback_meanwhile_holds_after_control_is_back(place: Place) -> None:
    place.gateway.set_weight(100)
    assert set(sides(place)) == {"green"}
    with Crowd(place.gateway.url) as crowd:
        with place.without_control():
            deleted(place)
            place.rollback_local()
            assert "green" not in sides(place)
        assert "green" not in sides(place)
        assert place.metric("gateway_forced_stable") == 1
        place.kill()
        assert "green" not in sides(place)
        with place.without_control():
            place.rollback_local("--undo")
            assert set(sides(place)) == {"green"}
        assert set(sides(place)) == {"green"}
    assert crowd.lost == []


# --- a release ------------------------------------------------------------------------------------


@contextmanager
def pipeline(place: Place) -> Iterator[subprocess.Popen[str]]:
    """A release of ``web`` at 50 %, and the job that waits for it."""
    command = place.command("release", "start", "--service", "web", "--lease", "60s", "--wait")
    with subprocess.Popen(
        command,
        env=place.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as job:
        try:
            wait_until(
                lambda: place.web()["weights"]["candidate"] == 50 or None,
                lambda: f"50 %: {job.poll()} {place.gateway.api('GET', '/v1/releases/current')}",
            )
            yield job
        finally:
            if job.poll() is None:
                job.kill()


def release(place: Place) -> Any:
    return place.gateway.api("GET", "/v1/releases/current").body


def test_a_release_goes_on_where_the_store_is_lost_alone(place: Place) -> None:
    with pipeline(place) as job:
        before = release(place)
        with Crowd(place.gateway.url) as crowd, place.without_control():
            deleted(place)
            crowd.meets(20)
        assert crowd.lost == []
        after = release(place)
        assert (after["id"], after["state"], after["step"]) == (
            before["id"],
            "stepping",
            before["step"],
        )
        assert place.web()["weights"]["candidate"] == 50
        assert job.poll() is None
        answer = place.gateway.api("POST", "/v1/releases/current/abort", {})
        assert answer.status == 200, answer
        assert job.wait(30) == Exit.ROLLED_BACK


def test_a_release_that_nobody_knows_any_more_goes_back_and_ends_its_pipeline(
    place: Place,
) -> None:
    with pipeline(place) as job:
        before = release(place)
        with Crowd(place.gateway.url) as crowd:
            with place.without_control():
                deleted(place)
                for each in (place.gateway.folder / "run").glob("snapshot-*"):
                    each.unlink()
                crowd.meets(20)
            assert job.wait(30) == Exit.ROLLED_BACK
        assert crowd.lost == []
        assert job.stdout is not None
        assert "the state store was lost during this release" in job.stdout.read()
    after = release(place)
    assert after["id"] == before["id"]
    assert after["trigger"] == "state_lost"
    assert "green" not in sides(place)
