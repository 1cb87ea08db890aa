"""The demo platform behind a gateway with two workers, and 2,000 users who ask it.

The services are the demo's own processes, the gateway's file the demo's with short times for
releases. A platform can be used for one scenario after the other: ``settle`` makes it whole.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from gateway.demo import children as demo
from gateway.demo.children import Children, await_ready, start_service
from gateway.demo.layout import REPLICAS, Layout, Placed, configuration, free_layout
from loadtests.chaos.load import Row
from loadtests.chaos.stage import ROOT, TOKEN, Answer, Gateway, Loading, Stage, wait_for
from loadtests.processes import Child, ToolError, start

RATE = 200
USERS = 2000
#: What users ask, in turn: each service once.
PATHS = ("/", "/api/ivor/resources", "/api/events/upcoming", "/api/newsroom/articles")
WELL: dict[str, Any] = {"slow_ms": 0, "fail": 0.0, "dead": False, "unhealthy": False}
#: Release states that are not left without somebody's doing, or at all.
OVER = frozenset({"rolled_back", "aborted", "finalized"})
START_LIMIT = 60.0

#: Enough for any scenario, few enough for seconds at 5 % of 200 requests a second.
RELEASES: dict[str, Any] = {"min_requests": 5, "min_keys": 3, "max_hold": "5m"}


@dataclass(slots=True)
class Service:
    """One of the demo's processes."""

    placed: Placed
    child: demo.Child
    control: int

    @property
    def name(self) -> str:
        """The service that it is one of."""
        return self.placed.identity.service

    def turn(self, change: Mapping[str, object]) -> None:
        """Turn its knob."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.control}/_demo",
            json.dumps(change).encode(),
            {"Content-Type": "application/json"},
            method="POST",
        )
        with urllib.request.urlopen(request, timeout=5) as answer:
            answer.read()


@dataclass(frozen=True, slots=True)
class Told:
    """One event of ``GET /v1/events``, and when it came (monotonic)."""

    at: float
    kind: str
    data: dict[str, Any]


class Listener:
    """Reads the gateway's events; use as a context manager."""

    def __init__(self, admin: int) -> None:
        self.told: list[Told] = []
        self._connection = http.client.HTTPConnection("127.0.0.1", admin, timeout=60)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._ready = threading.Event()

    def __enter__(self) -> Self:
        self._connection.request("GET", "/v1/events", headers={"Authorization": f"Bearer {TOKEN}"})
        self._answer = self._connection.getresponse()
        if self._answer.status != 200:
            raise ToolError(f"no events: {self._answer.status}")
        self._thread.start()
        if not self._ready.wait(5):
            raise ToolError("no events within 5 s")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._connection.sock is not None:
            with contextlib.suppress(OSError):
                self._connection.sock.shutdown(2)
        self._thread.join(5)
        self._connection.close()

    def _read(self) -> None:
        kind = ""
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException, AttributeError):
            for raw in self._answer:
                line = raw.decode().rstrip("\n")
                self._ready.set()
                if line.startswith("event: "):
                    kind = line[7:]
                elif line.startswith("data: "):
                    self.told.append(Told(time.monotonic(), kind, json.loads(line[6:])))

    def alerts(self) -> list[Told]:
        """Return the alerts about releases."""
        return [
            each
            for each in list(self.told)
            if each.kind == "alert" and each.data.get("about") == "release"
        ]


@dataclass(slots=True)
class Platform:
    """Services, a gateway, and who is stable now."""

    stage: Stage
    layout: Layout
    gateway: Gateway
    children: Children
    services: list[Service] = field(default_factory=list)
    _pipelines: int = 0

    @classmethod
    def on(cls, stage: Stage, **releases: object) -> Platform:
        """Start everything; ``releases`` are keys of that section. Raises ToolError."""
        layout = free_layout()
        config = configuration(layout, stage.folder)
        config["admin"] = {
            "address": f"127.0.0.1:{layout.admin}",
            "tokens": [{"name": "chaos", "role": "admin", "token_env": "GATEWAY_CHAOS_TOKEN"}],
        }
        config["access_log"] = str(stage.folder / "access.log")
        config["releases"] = {**RELEASES, **releases}
        (stage.folder / "cohort.secret").write_text(secrets.token_urlsafe(32))
        (stage.folder / "cohort.secret").chmod(0o600)
        children = Children(stage.folder / "log", secrets.token_hex(8))
        stage.owns(lambda: children.stop(2.0))
        gateway = Gateway(stage.folder, config, layout.public, layout.admin)
        platform = cls(stage, layout, gateway, children)
        platform._start()
        return platform

    def _start(self) -> None:
        public = f"http://127.0.0.1:{self.layout.public}"
        begun = [
            (placed, start_service(self.children, placed, public))
            for placed in self.layout.processes
        ]
        self.services = [_ready(placed, child) for placed, child in begun]
        self.stage.owns(self.gateway.stop)
        self.gateway.start()
        self.gateway.settled([placed.url for placed in self.layout.processes])

    # --- roles ------------------------------------------------------------------------------------

    @property
    def stable(self) -> str:
        """The color that is stable."""
        services = self.gateway.api("GET", "/v1/status").json["services"]
        return str(services[0]["stable"])

    @property
    def candidate(self) -> str:
        """The other color."""
        return "green" if self.stable == "blue" else "blue"

    def of(self, color: str | None, service: str | None = None) -> list[Service]:
        """Return a color's (or both colors') processes, or one service's of them."""
        return [
            each
            for each in self.services
            if color in {None, each.placed.identity.color} and service in {None, each.name}
        ]

    def turn(self, color: str | None, service: str | None = None, **change: Any) -> None:
        """Turn the knobs of a color (None: of both) at once."""
        wanted = self.of(color, service)
        with ThreadPoolExecutor(len(wanted)) as pool:
            list(pool.map(lambda each: each.turn(change), wanted))

    def kill(self, color: str, service: str) -> float:
        """Kill a service's processes of a color with -9; return when they were gone."""
        for each in self.of(color, service):
            each.child.process.send_signal(signal.SIGKILL)
            each.child.process.wait()
        self.children.ended()
        return time.monotonic()

    def revive(self, color: str, service: str) -> None:
        """Start what was killed again, on its port."""
        public = f"http://127.0.0.1:{self.layout.public}"
        for each in self.of(color, service):
            if each.child.process.poll() is not None:
                child = start_service(self.children, each.placed, public)
                self.services[self.services.index(each)] = _ready(each.placed, child)

    # --- releases ---------------------------------------------------------------------------------

    def api(self, method: str, path: str, body: object = None, *, expect: int = 200) -> Any:
        """Call the admin API; return the answer's JSON. Raises ToolError for another status."""
        return self.gateway.call(method, path, body, expect=expect)

    def release(self) -> dict[str, Any]:
        """Return the current release."""
        found: dict[str, Any] = self.api("GET", "/v1/releases/current")
        return found

    def start(self, *steps: tuple[float, str], **wish: object) -> str:
        """Start a release of all services, whatever was rolled back before; return its id."""
        plan = [{"weight": weight, "hold": hold} for weight, hold in steps]
        body = {"steps": plan, "force": True, **wish}
        return str(self.api("POST", "/v1/releases", body, expect=201)["id"])

    def pipeline(self, *steps: tuple[float, str], options: Sequence[str] = ()) -> Child:
        """Start a release with ``gateway release start --wait``, as a pipeline does."""
        self._pipelines += 1
        command = [sys.executable, "-m", "gateway", "release", "start", "--wait", "--force"]
        for weight, hold in steps:
            command += ["--step", f"{weight:g}:{hold}"]
        env = {
            "PYTHONPATH": str(ROOT),
            "GATEWAY_ADMIN": f"http://127.0.0.1:{self.gateway.admin}",
            "GATEWAY_TOKEN": TOKEN,
        }
        name = f"pipeline-{self._pipelines}"
        child = start(name, [*command, *options], self.stage.folder, env)
        self.stage.owns(child.stop)

        def begun() -> bool:
            if child.process.poll() is not None:
                raise ToolError(f"the pipeline ended: {child.tail()}")
            answer = self.gateway.api("GET", "/v1/releases/current")
            return answer.status == 200 and answer.json["state"] not in OVER

        wait_for(begun, "the pipeline starts its release")
        return child

    def verb(self, verb: str, **body: object) -> dict[str, Any]:
        """Pause, resume, promote, abort, finalize or renew the current release."""
        found: dict[str, Any] = self.api("POST", f"/v1/releases/current/{verb}", body)
        return found

    def until(self, *states: str, within: float = 30.0) -> dict[str, Any]:
        """Wait for the release to be in one of these states; return it. Raises ToolError."""
        last: list[Any] = [None]

        def there() -> dict[str, Any] | None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                found = last[0] = self.release()
                return found if found["state"] in states else None
            return None

        try:
            return wait_for(there, f"{' or '.join(states)}", within)
        except ToolError as error:
            found = last[0] or {}
            told = {key: found.get(key) for key in ("state", "step", "because", "gate", "pools")}
            raise ToolError(f"{error}; it is {json.dumps(told)[:600]}") from error

    def decided(self, what: str) -> tuple[float, dict[str, Any]]:
        """Return the last decision of that kind, and when it was made (monotonic)."""
        rows = self.api("GET", "/v1/releases/current/decisions")["decisions"]
        found = [row for row in rows if row["what"] == what]
        if not found:
            raise ToolError(f"no decision {what!r} among {[row['what'] for row in rows]}")
        return float(found[-1]["at"]) - time.time() + time.monotonic(), found[-1]

    # --- users ------------------------------------------------------------------------------------

    def load(self, seconds: float, *, rate: float = RATE, **more: Any) -> Loading:
        """Begin a load of all users."""
        order = {"users": USERS, "paths": PATHS, **more}
        return self.stage.load(self.gateway, "/", rate, seconds, **order)

    # --- between scenarios ------------------------------------------------------------------------

    def settle(self) -> None:
        """Make everything whole: all alive and well, nothing split, the candidates new."""
        for service in REPLICAS:
            for color in ("blue", "green"):
                self.revive(color, service)
        self.turn(None, **WELL)
        answer = self.gateway.api("GET", "/v1/releases/current")
        if answer.status == 200 and answer.json["state"] not in OVER:
            self.gateway.api("POST", "/v1/releases/current/abort", {"force": True})
            self.until(*OVER)
        self.gateway.api("POST", "/v1/rollback", {"force": True})
        self.reset_breakers()
        self.gateway.settled([each.placed.url for each in self.of(self.stable)])
        self.replaced()

    def reset_breakers(self) -> None:
        """Close all breakers."""
        for row in self.api("GET", "/v1/breakers")["breakers"]:
            if row["state"] != "closed":
                self.api("POST", f"/v1/breakers/{row['endpoint']}/reset", {})

    def configure(self, **releases: object) -> None:
        """Have other keys for releases, from the next on."""
        self.gateway.config["releases"] = {**RELEASES, **releases}
        self.gateway.write()
        self.api("POST", "/v1/config/reload", {})

    def replaced(self) -> None:
        """Put the candidates anew, as a pipeline does: other generations, waited for."""
        color = self.candidate

        def put(service: str) -> Answer:
            return self.gateway.api(
                "PUT",
                f"/v1/services/{service}/pools/{color}",
                {"endpoints": self.layout.endpoints(service, color), "wait": "20s"},
            )

        with ThreadPoolExecutor(len(REPLICAS)) as pool:
            for service, answer in zip(REPLICAS, pool.map(put, REPLICAS), strict=True):
                if answer.status != 200:
                    raise ToolError(f"{service}: {answer.status} {answer.body[:400].decode()}")


def _ready(placed: Placed, child: demo.Child) -> Service:
    ready = await_ready(child, time.monotonic() + START_LIMIT, lambda: None)
    return Service(placed, child, ready.control)


# --- what users saw -------------------------------------------------------------------------------


def color(row: Row) -> str:
    """Return who answered, by color; empty where no backend did."""
    parts = row.backend.split("-")
    return parts[1] if len(parts) == 3 else ""


def well(row: Row) -> bool:
    """Tell whether a user got what was asked for, from a backend, and not from a copy."""
    return row.good and row.served_by in {"", "rescue"}


def asked(rows: Sequence[Row], candidate: str) -> list[Row]:
    """Return the rows whose first attempt went to the candidate."""
    return [row for row in rows if row.served_by == "rescue" or color(row) == candidate]
