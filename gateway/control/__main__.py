"""The control process, started by the supervisor: ``python -m gateway.control``."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import sys
import time
from pathlib import Path

from gateway.board.board import Board, BoardError
from gateway.channel.childspec import VARIABLE, ChildSpec
from gateway.control import start
from gateway.control.app import run
from gateway.control.read import read
from gateway.health.probes import NetworkProbes


def main() -> int:
    """Run control until it is stopped; the exit code."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s control %(levelname)s %(message)s",
    )
    try:
        spec = ChildSpec.inherited()
        board = Board.attach(spec.board, spec.slabs)
    except (KeyError, ValueError, TypeError, BoardError) as error:
        print(f"{VARIABLE} is no inheritance ({error}): use `gateway run`", file=sys.stderr)  # noqa: T201
        return 2
    load = functools.partial(read, Path(spec.config), os.environ)
    # Files that are half replaced just now end no control; a reload is refused for them.
    first = functools.partial(load, start.kept(spec.snapshot_file, board))
    probes = NetworkProbes(time.monotonic)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(run(spec, load, probes, board, first))


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    """Return uvloop's loop where it is installed, else asyncio's."""
    try:
        import uvloop
    except ImportError:
        return None
    loop: type[asyncio.AbstractEventLoop] = uvloop.Loop
    return loop


if __name__ == "__main__":
    sys.exit(main())
