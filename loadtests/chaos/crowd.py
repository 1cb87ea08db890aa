"""A crowd of clients of every kind before a gateway, and what it lost.

Two programs of their own make it: ``loadtests.chaos.load`` offers requests at a constant rate, half
of them on connections that are kept and half on fresh ones; ``loadtests.mixed.clients`` holds
WebSockets, event streams and uploads. Nobody of the crowd tries anything again.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gateway.demo.ports import free_ports
from loadtests.chaos.load import Row
from loadtests.chaos.stage import PATIENCE, ROOT, TOKEN, Gateway, Loading, Pace, Stage, wait_for
from loadtests.chaos.verdict import Check, bad, p99_ms, said
from loadtests.mixed.clients import Loss, Order, Told
from loadtests.processes import Child, ToolError, start, wait_listening

#: Longer than any scenario: a crowd is ended by who made it.
LONGEST = 900.0


@dataclass(slots=True)
class Server:
    """One backend of every kind, in a process of its own."""

    name: str
    folder: Path
    port: int
    child: Child | None = None

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it listens. Raises ToolError."""
        command = [sys.executable, "-m", "loadtests.mixed.backend", str(self.port), self.name]
        self.child = start(f"server-{self.name}", command, self.folder, {"PYTHONPATH": str(ROOT)})
        wait_listening(self.child, self.port)

    def stop(self) -> None:
        """End it, if it runs."""
        if self.child is not None:
            self.child.stop()
            self.child = None


def servers(stage: Stage, *names: str) -> list[Server]:
    """Start backends of every kind by these names."""
    found = []
    for name, port in zip(names, free_ports(len(names)), strict=True):
        server = Server(name, stage.folder, port)
        stage.owns(server.stop)
        server.start()
        found.append(server)
    return found


@dataclass(frozen=True, slots=True)
class Came:
    """What a crowd met, all in all."""

    rows: list[Row]
    told: Told

    def losses(self) -> list[Loss]:
        """Return everything that was lost, of every kind, by its moment."""
        rows = [Loss(row.due + row.took, "request", said([row])) for row in bad(self.rows)]
        return sorted([*rows, *self.told.lost])

    def closes(self, kind: str) -> list[float]:
        """Return when which streams or WebSockets were ended in order."""
        return self.told.closes.get(kind, [])

    def summary(self) -> str:
        """Say how much was done."""
        done = self.told.done
        other = ", ".join(f"{done.get(kind, 0)} {kind}s" for kind in ("message", "event", "upload"))
        return f"{len(self.rows)} requests, {other}, p99 {p99_ms(self.rows):.1f} ms"

    def nothing_lost(self) -> Check:
        """Nobody lost anything, and everybody did something."""
        lost = self.losses()
        idle = [kind for kind in ("message", "event", "upload") if not self.told.done.get(kind)]
        idle += [] if self.rows else ["request"]
        measured = f"{len(lost)} lost of {self.summary()}{_words(lost)}"
        if idle:
            measured += f"; no {', no '.join(idle)} at all"
        return Check("lost: 0", measured, not lost and not idle)

    def lost_only_between(self, spans: Sequence[tuple[float, float]], most: int) -> Check:
        """Whatever was lost was lost in one of these spans, and no more than was held there."""
        lost = self.losses()
        other = [each for each in lost if not any(a <= each.at <= b for a, b in spans)]
        bar = f"lost: only what it held (at most {most})"
        measured = f"{len(lost)} lost of {self.summary()}{_words(lost)}"
        if other:
            measured += f"; {len(other)} at another time: {_words(other)}"
        return Check(bar, measured, not other and len(lost) <= most)

    def stayed(self, what: str = "WebSockets and event streams stay") -> Check:
        """No WebSocket and no event stream was ended."""
        sockets, streams = len(self.closes("websocket")), len(self.closes("event stream"))
        measured = f"{sockets} WebSockets and {streams} event streams ended"
        return Check(what, measured, not sockets and not streams)


def _words(lost: Sequence[Loss], most: int = 3) -> str:
    counts: dict[str, int] = {}
    for each in lost:
        words = f"{each.kind}: {each.what[:160]}"
        counts[words] = counts.get(words, 0) + 1
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    told = ", ".join(f"{count} x {words}" for words, count in ordered[:most])
    return f" ({told})" if told else ""


@dataclass(slots=True)
class Crowd:
    """A crowd at work."""

    load: Loading
    others: Child
    output: Path
    size: int

    @classmethod
    def before(
        cls, stage: Stage, gateway: Gateway, pace: Pace, *, prefix: str = "/web", **more: Any
    ) -> Crowd:
        """Have a crowd begin; it works until ``end``. Raises ToolError."""
        size = pace.crowd
        output = stage.folder / "crowd.json"
        order = Order(
            gateway.port,
            str(output),
            prefix,
            uploads=size.uploads,
            streams=size.streams,
            sockets=size.sockets,
            message_pause=0.5,
        )
        command = [sys.executable, "-m", "loadtests.mixed.clients", json.dumps(asdict(order))]
        others = start("crowd", command, stage.folder, {"PYTHONPATH": str(ROOT)})
        stage.owns(others.stop)

        def running() -> bool:
            if others.process.poll() is not None:
                raise ToolError(f"the crowd failed: {others.tail()}")
            return output.with_suffix(".began").exists()

        wait_for(running, "the crowd is there")
        paths = {"paths": (f"{prefix}/kept", f"{prefix}/fresh"), **more}
        load = stage.load(gateway, "/", size.rate, LONGEST, fresh=0.5, **paths)
        return cls(load, others, output, size.sockets + size.streams + size.uploads)

    def end(self) -> Came:
        """Have everybody finish; return what came of it. Raises ToolError."""
        rows = self.load.end()
        self.others.process.send_signal(signal.SIGTERM)
        try:
            code = self.others.process.wait(PATIENCE)
        except subprocess.TimeoutExpired as error:
            raise ToolError(f"the crowd does not end: {self.others.tail()}") from error
        if code:
            raise ToolError(f"the crowd failed: {self.others.tail()}")
        found = json.loads(self.output.read_text())
        found["lost"] = [Loss(*each) for each in found["lost"]]
        return Came(rows, Told(**found))


@dataclass(slots=True)
class Town:
    """A gateway with a service of two colors, one of one color, and their backends."""

    gateway: Gateway
    blue: Server
    green: Server
    others: list[Server] = field(default_factory=list)

    @classmethod
    def on(cls, stage: Stage, *, start: bool = True, **keys: Any) -> Town:
        """Start everything; ``keys`` are those of service ``web``. Raises ToolError."""
        blue, green, other = servers(stage, "blue", "green", "other")
        web = {
            "blue": {"endpoints": [blue.url]},
            "green": {"endpoints": [green.url]},
            "drain_timeout": "5s",
            # Who waited while there was no gateway comes all at once.
            "max_in_flight": 1000,
            **keys,
        }
        # A worker that leaves has the longest drain_timeout of all services.
        beside = {"blue": {"endpoints": [other.url]}, "drain_timeout": web["drain_timeout"]}
        services = {"web": web, "other": beside}
        gateway = stage.prepare(services)
        if start:
            gateway.start()
            gateway.settled([blue.url, green.url, other.url])
        return cls(gateway, blue, green, [other])

    def verb(self, *words: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Run one of the gateway's verbs; return its exit code and what it said."""
        told = {
            "PYTHONPATH": str(ROOT),
            "GATEWAY_ADMIN": f"http://127.0.0.1:{self.gateway.admin}",
            "GATEWAY_TOKEN": TOKEN,
            "GATEWAY_CHAOS_TOKEN": TOKEN,
            **(env or {}),
        }
        child = start("verb", [sys.executable, "-m", "gateway", *words], self.gateway.folder, told)
        try:
            code = child.process.wait(60)
        except subprocess.TimeoutExpired as error:
            child.stop()
            raise ToolError(f"gateway {' '.join(words)} does not end: {child.tail()}") from error
        return code, child.tail()


def back_within(look: Callable[[], object], seconds: float, since: float, what: str) -> Check:
    """Judge how long after ``since`` ``look`` returned something true for the first time."""
    with contextlib.suppress(ToolError):
        wait_for(lambda: look() or None, what, max(seconds * 5, PATIENCE))
        took = time.monotonic() - since
        return Check(f"{what} within {seconds:g} s", f"{took:.2f} s", took <= seconds)
    return Check(f"{what} within {seconds:g} s", "never", ok=False)
