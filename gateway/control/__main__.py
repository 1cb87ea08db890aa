"""The control process, started by the supervisor: ``python -m gateway.control``."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
import sys
import time
from pathlib import Path

from gateway.board.board import Board, BoardError
from gateway.channel.childspec import VARIABLE, ChildSpec
from gateway.control import start
from gateway.control.app import run
from gateway.control.database import written_by_newer
from gateway.control.read import read
from gateway.control.settings import SettingsError
from gateway.health.probes import NetworkProbes


def main() -> int:
    """Run control until it is stopped; the exit code. ``--try FILE`` reads the file and is done."""
    if sys.argv[1:2] == ["--try"]:
        return try_file(Path(sys.argv[2]))
    # The supervisor's, or another program's: by mistake they come here, too. SIGHUP is a reload.
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
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


def try_file(path: Path) -> int:
    """Read a configuration as it is read at the start; tell what is wrong with it, 2 then.

    4 where this version could not go on with the state store.
    """
    try:
        settings = read(path, os.environ)
    except SettingsError as error:
        for where, what in error.faults:
            print(f"{where}: {what}", file=sys.stderr)  # noqa: T201
        return 2
    problem = written_by_newer(settings.state_path)
    if problem:
        print(f"state store {settings.state_path}: {problem}", file=sys.stderr)  # noqa: T201
        return 4
    return 0


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
