"""WebSockets to the demo's events service, and what a rollback does to those of the candidate."""

from __future__ import annotations

import base64
import json
import os
import select
import socket
import time
from types import TracebackType
from typing import Self

from loadtests.chaos.load import cookie
from loadtests.chaos.stage import Pace, wait_for
from loadtests.chaos.verdict import Check
from loadtests.processes import ToolError
from loadtests.releases.candidates import LONG
from loadtests.releases.platform import USERS, Platform

PATH = "/api/events/live"
_TEXT, _CLOSE = 0x1, 0x8


class Tunnel:
    """One user's WebSocket (RFC 6455); use as a context manager. ``color`` is who answers."""

    def __init__(self, port: int, user: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 5)
        self.pending = b""
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {PATH} HTTP/1.1\r\nHost: chaos.example\r\nConnection: Upgrade\r\n"
            f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
            f"Cookie: gw_cohort={cookie(user)}\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self.pending:
            self._more()
        head, _, self.pending = self.pending.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            raise ToolError(f"no WebSocket: {head[:200]!r}")
        self.color = str(json.loads(self._frame()[1])["color"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    def _more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("closed")
        self.pending += data

    def _frame(self) -> tuple[int, bytes]:
        """Read one short frame: its kind and content."""
        while len(self.pending) < 2 or len(self.pending) < 2 + (self.pending[1] & 0x7F):
            self._more()
        size = self.pending[1] & 0x7F
        kind, data = self.pending[0] & 0xF, self.pending[2 : 2 + size]
        self.pending = self.pending[2 + size :]
        return kind, data

    def echo(self, text: str) -> bool:
        """Tell whether a message is answered by who answered first."""
        data, mask = text.encode(), os.urandom(4)
        masked = bytes(octet ^ mask[at % 4] for at, octet in enumerate(data))
        try:
            self.socket.sendall(bytes([0x80 | _TEXT, 0x80 | len(data)]) + mask + masked)
            kind, said = self._frame()
        except (OSError, ConnectionError):
            return False
        return kind == _TEXT and json.loads(said) == {"echo": text, "color": self.color}

    def closed(self, within: float) -> bool:
        """Wait up to this many seconds for its end; tell whether it came."""
        deadline = time.monotonic() + within
        self.socket.settimeout(max(0.01, within))
        try:
            while time.monotonic() < deadline:
                if self._frame()[0] == _CLOSE:
                    return True
        except TimeoutError:
            return False
        except (OSError, ConnectionError):
            return True
        return False


def user_on(platform: Platform, color: str, beyond: int = -1) -> int:
    """Return the first user after ``beyond`` who is on a side now."""
    for user in range(beyond + 1, USERS):
        with Tunnel(platform.gateway.port, user) as tunnel:
            if tunnel.color == color:
                return user
    raise ToolError(f"no user is on {color}")


def drained(platform: Platform, pace: Pace) -> list[Check]:
    """WebSockets of the candidate get their drain time after a rollback; stable's stay."""
    del pace
    drain = float(platform.gateway.config["services"]["events"]["drain_timeout"][:-1])
    candidate = platform.candidate
    platform.start((50, LONG), (100, LONG))
    platform.until("stepping")
    open_ones = [Tunnel(platform.gateway.port, user) for user in range(40)]
    try:
        theirs = [each for each in open_ones if each.color == candidate]
        others = [each for each in open_ones if each.color != candidate]
        rolled_back = time.monotonic()
        platform.api("POST", "/v1/rollback", {"reason": "a test"})
        time.sleep(drain / 2)
        alive = sum(each.echo("still here") for each in theirs)
        early = time.monotonic() - rolled_back
        ends = _ends(theirs, rolled_back, drain + 5)
        stay = sum(each.echo("and we") for each in others)
        with Tunnel(platform.gateway.port, 0) as fresh:
            now_on = fresh.color
    finally:
        for each in open_ones:
            each.socket.close()
    ended = platform.until("aborted", "rolled_back", within=10)
    first, last = min(ends, default=0.0), max(ends, default=0.0)
    return [
        Check(
            f"open {early:.1f} s after the rollback",
            f"{alive} of {len(theirs)} of the candidate's",
            0 < len(theirs) == alive,
        ),
        Check(
            f"closed when their {drain:g} s are over",
            f"{len(ends)} of {len(theirs)}, from {first:.2f} to {last:.2f} s",
            len(ends) == len(theirs) and drain - 0.2 <= first and last <= drain + 1.5,
        ),
        Check(
            "stable's stay, new ones are stable's",
            f"{stay} of {len(others)}; a new one is {now_on}; the release is {ended['state']}",
            0 < len(others) == stay and now_on != candidate,
        ),
    ]


def _ends(tunnels: list[Tunnel], since: float, within: float) -> list[float]:
    """Return when each ended, in seconds since a moment."""
    left = {each.socket.fileno(): each for each in tunnels}
    found: list[float] = []

    def over() -> bool:
        readable, _, _ = select.select(list(left), [], [], 0.05)
        for number in readable:
            if left[number].closed(0.05):
                found.append(time.monotonic() - since)
                del left[number]
        return not left

    try:
        wait_for(over, "they close", within)
    except ToolError:
        return found
    return found
