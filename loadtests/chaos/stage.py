"""Everything a scenario plays with: backends that can be killed, a gateway, loads. Loopback only.

A ``Stage`` ends whatever it has started, in the order opposite to that.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

from gateway.demo.ports import free_ports
from loadtests.chaos.backend import Seen
from loadtests.chaos.load import Order, Row
from loadtests.processes import Child, ToolError, start, wait_listening

ROOT = Path(__file__).resolve().parent.parent.parent
TOKEN = "chaos-token-" + "0" * 24
T = TypeVar("T")
#: An established connection's state in /proc/net/tcp.
_ESTABLISHED = "01"

#: A machine with two busy cores is slow; a deadline bounds a failure, not a success.
PATIENCE = 30.0


class Lacking(RuntimeError):  # noqa: N818 - not an error: a scenario that this machine cannot play
    """This machine lacks what a scenario needs."""


@dataclass(frozen=True, slots=True)
class Size:
    """A crowd: requests a second, half of them on fresh connections, and clients of other kinds."""

    rate: float
    sockets: int
    streams: int
    uploads: int


@dataclass(frozen=True, slots=True)
class Pace:
    """How hard and how long: a whole run, or the short form that the test suite plays."""

    rate: float
    seconds: float
    #: Medians of p99s this close are the same: neither clock nor scheduler tells them apart.
    noise_ms: float
    short: bool = False
    crowd: Size = Size(500, sockets=50, streams=20, uploads=10)


FULL = Pace(rate=300, seconds=12, noise_ms=1)
SHORT = Pace(
    rate=100,
    seconds=2,
    noise_ms=5,
    short=True,
    crowd=Size(100, sockets=10, streams=4, uploads=3),
)


def wait_for(look: Callable[[], T | None], what: str, timeout: float = PATIENCE) -> T:
    """Poll until ``look`` returns something true; return it. Raises ToolError, saying ``what``."""
    deadline = time.monotonic() + timeout
    while not (found := look()):
        if time.monotonic() > deadline:
            raise ToolError(f"not within {timeout:g} s: {what}")
        time.sleep(0.02)
    return found


def sleep_until(moment: float) -> None:
    """Wait for a moment of the monotonic clock."""
    time.sleep(max(0.0, moment - time.monotonic()))


@dataclass(slots=True)
class Backend:
    """A backend's process, which can be killed and started again on its port."""

    name: str
    folder: Path
    port: int
    control: int
    child: Child | None = None
    program: ClassVar[str] = "loadtests.chaos.backend"

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, **manner: object) -> float:
        """Start it in this manner; return when it was seen to listen."""
        command = [sys.executable, "-m", self.program]
        command += [str(self.port), str(self.control), self.name, json.dumps(manner)]
        env = {"PYTHONPATH": str(ROOT)}
        self.child = start(f"backend-{self.name}", command, self.folder, env)
        wait_listening(self.child, self.control)
        return time.monotonic()

    def kill(self) -> float:
        """Kill it with -9; return when it was gone."""
        assert self.child is not None, "not started"
        self.child.process.send_signal(signal.SIGKILL)
        self.child.process.wait()
        self.child = None
        return time.monotonic()

    def order(self, **manner: object) -> Seen:
        """Change its manner (if anything is named); return what it has seen since its start."""
        with socket.create_connection(("127.0.0.1", self.control), 5) as desk:
            desk.sendall(json.dumps(manner).encode() + b"\n")
            with desk.makefile("rb") as answer:
                return Seen(**json.loads(answer.readline()))

    def stop(self) -> None:
        """End it, if it runs."""
        if self.child is not None:
            self.child.stop()
            self.child = None


@dataclass(slots=True)
class Loading:
    """A load under way."""

    child: Child
    order: Order
    began: float

    def at(self, share: float) -> float:
        """Return the moment at this share of the whole."""
        return self.began + share * self.order.seconds

    def end(self) -> list[Row]:
        """Have it offer no more; return its rows. Raises ToolError."""
        self.child.process.send_signal(signal.SIGTERM)
        return self.rows()

    def rows(self) -> list[Row]:
        """Wait for its end and return its rows. Raises ToolError."""
        try:
            code = self.child.process.wait(self.order.seconds + self.order.patience + PATIENCE)
        except Exception as error:
            self.child.stop()
            raise ToolError(f"the load does not end: {self.child.tail()}") from error
        if code:
            raise ToolError(f"the load failed: {self.child.tail()}")
        return [Row(**row) for row in json.loads(Path(self.order.output).read_text())]


@dataclass(slots=True)
class Answer:
    """One answer of the gateway, public or admin."""

    status: int
    body: bytes
    fields: Mapping[str, str]

    @property
    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)


@dataclass(slots=True)
class Gateway:
    """A gateway with its supervisor, control and two workers."""

    folder: Path
    config: dict[str, Any]
    port: int
    admin: int
    env: dict[str, str] = field(default_factory=dict)
    #: What it is started by: a command that ends with the gateway's.
    before: tuple[str, ...] = ()
    #: Descriptors that it inherits.
    pass_fds: tuple[int, ...] = ()
    child: Child | None = None

    @property
    def path(self) -> Path:
        """Its configuration file."""
        return self.folder / "gateway.yaml"

    def write(self) -> None:
        """Write the configuration: JSON is YAML, too."""
        self.path.write_text(json.dumps(self.config, indent=1))

    def start(self) -> None:
        """Start it and wait until every worker is ready. Raises ToolError."""
        self.write()
        env = {"GATEWAY_CHAOS_TOKEN": TOKEN, "PYTHONPATH": str(ROOT), **self.env}
        command = [*self.before, sys.executable, "-m", "gateway", "run"]
        command += ["--config", str(self.path)]
        self.child = child = start("gateway", command, self.folder, env, self.pass_fds)

        def ready() -> bool:
            if child.process.poll() is not None:
                raise ToolError(f"the gateway exited: {child.tail()}")
            with contextlib.suppress(OSError):
                return self.api("GET", "/readyz").status == 200
            return False

        wait_for(ready, "the gateway is ready")

    def api(self, method: str, path: str, body: object = None) -> Answer:
        """Call the admin API. Raises OSError where nobody is there."""
        data = None if body is None else json.dumps(body).encode()
        fields = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        url = f"http://127.0.0.1:{self.admin}{path}"
        request = urllib.request.Request(url, data, fields, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return Answer(answer.status, answer.read(), dict(answer.headers.items()))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.read(), dict(error.headers.items()))

    def call(self, method: str, path: str, body: object = None, *, expect: int = 200) -> Any:
        """Call the admin API; return the answer's JSON. Raises ToolError for another status."""
        answer = self.api(method, path, body)
        if answer.status != expect:
            words = answer.body[:400].decode(errors="replace")
            raise ToolError(f"{method} {path}: {answer.status} {words}")
        return answer.json

    def ready(self) -> set[int]:
        """Return the workers that serve; none where control does not answer."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            rows = self.api("GET", "/v1/status").json["processes"]
            return {
                int(row["pid"])
                for row in rows
                if row["role"] == "worker" and row["state"] == "ready"
            }
        return set()

    def ask(self, path: str, method: str = "GET", body: str | None = None) -> Answer:
        """Ask the public side, on a connection of its own. Raises OSError, HTTPException."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            fields = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, answer.read(), fields)
        finally:
            connection.close()

    def pids(self, role: str) -> list[int]:
        """Return the process ids of ``control``, ``worker`` or ``supervisor``, from the API."""
        rows = self.api("GET", "/v1/status").json["processes"]
        return [int(row["pid"]) for row in rows if row["role"] == role]

    def health(self) -> dict[str, str]:
        """Return each endpoint's health by its URL."""
        found: dict[str, str] = {}
        for endpoint in self.endpoints():
            found[str(endpoint["url"]).rstrip("/")] = str(endpoint["health"])
        return found

    def endpoints(self) -> list[dict[str, Any]]:
        """Return every endpoint as the API tells it."""
        found: list[dict[str, Any]] = []
        services = self.api("GET", "/v1/status").json["services"]
        for service in services.values() if isinstance(services, dict) else services:
            for pool in _pools(service):
                found += pool.get("endpoints", [])
        return found

    def settled(self, urls: Sequence[str]) -> None:
        """Wait until these endpoints are known to be up."""
        wanted = {url.rstrip("/") for url in urls}

        def up() -> bool:
            health = self.health()
            return all(health.get(url) == "up" for url in wanted)

        wait_for(up, "the first probes pass")

    def tail(self) -> str:
        """Return the end of what it has written."""
        return "" if self.child is None else self.child.tail(4000)

    def everything(self) -> str:
        """Return all that it has written since it was started last."""
        return "" if self.child is None else self.child.output.read_text(errors="replace")

    def stop(self) -> None:
        """End it and every process of it."""
        if self.child is not None:
            self.child.stop(20)
            self.child = None


def _pools(service: Mapping[str, Any]) -> list[dict[str, Any]]:
    pools = service.get("pools", [])
    return list(pools.values()) if isinstance(pools, dict) else list(pools)


class Stage:
    """One scenario's processes and files; use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()
        self._loads = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def owns(self, stop: Callable[[], object]) -> None:
        """Have something ended with the stage."""
        self._stack.callback(stop)

    def backends(self, *names: str, **manner: object) -> list[Backend]:
        """Start backends by these names, all in one manner."""
        ports = free_ports(2 * len(names))
        found = []
        for at, name in enumerate(names):
            backend = Backend(name, self.folder, ports[2 * at], ports[2 * at + 1])
            self._stack.callback(backend.stop)
            backend.start(**manner)
            found.append(backend)
        return found

    def file(self, name: str, text: str) -> str:
        """Write a file for the configuration; return its path."""
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def gateway(
        self,
        services: Mapping[str, tuple[Sequence[Backend], Mapping[str, object]]],
        *,
        cache: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
    ) -> Gateway:
        """Start a gateway; ``/NAME/`` goes to each service, with a cache where it is named."""
        sections = {
            name: {"blue": {"endpoints": [each.url for each in backends]}, **keys}
            for name, (backends, keys) in services.items()
        }
        gateway = self.prepare(sections, cache=cache, env=env, before=before)
        gateway.start()
        gateway.settled([each.url for backends, _ in services.values() for each in backends])
        return gateway

    def prepare(
        self,
        services: Mapping[str, Mapping[str, object]],
        *,
        cache: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
    ) -> Gateway:
        """Make a gateway of these sections of services; it is not started yet."""
        port, admin = free_ports(2)
        config: dict[str, Any] = {
            "version": 1,
            "listen": [{"address": f"127.0.0.1:{port}"}],
            "workers": 2,
            "state": {"path": str(self.folder / "gateway.db")},
            "access_log": str(self.folder / "access.log"),
            "admin": {
                "address": f"127.0.0.1:{admin}",
                "tokens": [{"name": "chaos", "role": "admin", "token_env": "GATEWAY_CHAOS_TOKEN"}],
            },
            "services": {name: dict(keys) for name, keys in services.items()},
            "routes": [
                {"path": f"/{name}/", "service": name, "cache": "on" if name in cache else "off"}
                for name in services
            ],
        }
        gateway = Gateway(self.folder, config, port, admin, dict(env or {}), tuple(before))
        self._stack.callback(gateway.stop)
        return gateway

    def load(
        self, gateway: Gateway, path: str, rate: float, seconds: float, **more: Any
    ) -> Loading:
        """Begin a load and wait until it runs."""
        self._loads += 1
        output = self.folder / f"load-{self._loads}.json"
        order = Order(gateway.port, rate, seconds, str(output), path, **more)
        command = [sys.executable, "-m", "loadtests.chaos.load", json.dumps(asdict(order))]
        child = start(f"load-{self._loads}", command, self.folder, {"PYTHONPATH": str(ROOT)})
        self._stack.callback(child.stop)
        began = Path(f"{output}.began")

        def running() -> float | None:
            if child.process.poll() is not None:
                raise ToolError(f"the load failed: {child.tail()}")
            with contextlib.suppress(FileNotFoundError, ValueError):
                return float(began.read_text())
            return None

        return Loading(child, order, wait_for(running, "the load runs"))


def breaker_of(endpoint: Mapping[str, Any]) -> str:
    """Return the state of an endpoint's breaker, as the API tells it."""
    breaker = endpoint.get("breaker")
    return str(breaker.get("state") if isinstance(breaker, dict) else breaker)


def kill(pid: int) -> float:
    """Kill a process of the gateway's with -9; return when."""
    os.kill(pid, signal.SIGKILL)
    return time.monotonic()


def owner_of(port: int, pids: Sequence[int]) -> int | None:
    """Return which of these processes holds the connection from this local port (Linux)."""
    return next((pid for pid in pids if held(port, pid)), None)


def held(port: int, pid: int) -> int:
    """Return how many established connections of this local port a process has (Linux)."""
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].partition(":")[2], 16) == port and fields[3] == _ESTABLISHED:
            inodes.add(f"socket:[{fields[9]}]")
    count = 0
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                count += str(entry.readlink()) in inodes
    return count
