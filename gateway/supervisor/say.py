"""The supervisor's log: lines on standard error that never make it wait."""

from __future__ import annotations

import contextlib
import os
import select
from typing import Final

_STDERR: Final = 2
#: A pipe that ``select`` calls writable takes this much without blocking (POSIX PIPE_BUF).
_MOST: Final = 512


def say(text: str) -> None:
    """Write one line, or drop it where nobody reads: a full pipe must not stop the watch."""
    line = f"gateway: {text}".encode("utf-8", "replace")[: _MOST - 1].replace(b"\n", b" ") + b"\n"
    with contextlib.suppress(OSError, ValueError):
        if select.select([], [_STDERR], [], 0)[1]:
            os.write(_STDERR, line)
