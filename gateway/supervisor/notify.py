"""Words for the service manager: sd_notify(3)'s protocol, which is one datagram a message."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """Tells ``NOTIFY_SOCKET``, and keeps its watchdog content. Never waits, never fails."""

    def __init__(self, env: Mapping[str, str]) -> None:
        where = env.get("NOTIFY_SOCKET", "")
        # `@` stands for the octet 0, with which Linux's abstract names begin.
        self._address = "\0" + where[1:] if where.startswith("@") else where
        self._every = _watchdog(env) / 2
        self._beat_at = 0.0
        self._status = ""
        self._socket: socket.socket | None = None
        if where.startswith(("/", "@")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.settimeout(0.0)

    @property
    def every(self) -> float:
        """Seconds between two beats; 0: nobody watches."""
        return self._every

    def ready(self, status: str) -> None:
        """All is as it should be, or as good as it gets after a reload."""
        self._status = status
        self._tell("READY=1", f"MAINPID={os.getpid()}", f"STATUS={status}")

    def reloading(self, status: str) -> None:
        """A reload begins; ``ready`` ends it."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={now}", f"STATUS={status}")

    def stopping(self, status: str) -> None:
        """The end has begun."""
        self._tell("STOPPING=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """Say how it stands, once."""
        if status != self._status:
            self._status = status
            self._tell(f"STATUS={status}")

    def beat(self, now: float) -> None:
        """Say that the loop turns, at half of the time that the watchdog allows."""
        if self._every > 0 and now >= self._beat_at:
            self._beat_at = now + self._every
            self._tell("WATCHDOG=1")

    def close(self) -> None:
        """Say nothing more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _tell(self, *lines: str) -> None:
        if self._socket is None:
            return
        message = "\n".join(line.replace("\n", " ") for line in lines)
        with contextlib.suppress(OSError):
            self._socket.sendto(message.encode("utf-8", "replace"), self._address)


def _watchdog(env: Mapping[str, str]) -> float:
    """Return the watchdog's time in seconds; 0 where there is none, or it is another process's."""
    if env.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    text = env.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isascii() and text.isdigit() else 0.0
