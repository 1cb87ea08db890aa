"""Signals as bytes on a descriptor: nothing is done inside a handler."""

from __future__ import annotations

import os
import signal
import socket
from typing import Final

WATCHED: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGCHLD,
    # Means nothing here; other servers open their logs anew for it, and it would end us.
    signal.SIGUSR1,
    signal.SIGUSR2,
)


def hold() -> None:
    """Have signals wait: between an exec and the next ``Signals`` they would end the process.

    Those that came before and that nobody has read would be gone with the exec, as the bytes of a
    socket that closes: they are sent again, and wait too.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    for number in _newest.read() if _newest is not None else ():
        os.kill(os.getpid(), number)


def let_come() -> None:
    """Take signals again, those first that waited. Children are not to inherit that they wait."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)


class Signals:
    """The signals that came since the last ``read``, for a loop that waits on ``fileno()``."""

    def __init__(self) -> None:
        global _newest  # noqa: PLW0603 -- as the descriptor that handlers write to: one a process
        self._receiving, sending = socket.socketpair()
        self._sending = sending
        for end in (self._receiving, sending):
            end.settimeout(0.0)
        signal.set_wakeup_fd(sending.fileno(), warn_on_full_buffer=False)
        for number in WATCHED:
            # A Python handler has to be there, or the descriptor is not written to. Children get
            # the default back: exec resets what is handled.
            signal.signal(number, lambda *_: None)
        _newest = self
        let_come()

    def fileno(self) -> int:
        """Return the descriptor that is readable when a signal came."""
        return self._receiving.fileno()

    def read(self) -> list[int]:
        """Return the numbers of the signals that came, in order."""
        try:
            return list(self._receiving.recv(4096))
        except BlockingIOError:
            return []


#: The one that handlers write to.
_newest: Signals | None = None
