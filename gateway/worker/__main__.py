"""A worker process: ``python -m gateway.worker``, started by the supervisor."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys

from gateway.channel import spare
from gateway.worker.app import Worker


def main() -> int:
    """Serve until told to stop; return the exit code. ``--try`` loads everything and is done."""
    if sys.argv[1:2] == ["--try"]:
        return 0
    # They are the supervisor's (a reload, an upgrade) or another program's (a log's rotation). One
    # that came here by mistake must not end us with everything in our hands.
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s worker[%(process)d] %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    factory = _loop_factory()
    # What is there now stays: the collector need not look at it again. A request leaves no cycles
    # behind, so that it need not run often either; each run holds the loop.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    spec = spare.inherited()
    if spec is None:
        return 0  # it was a spare, and is not needed
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(Worker(spec).run())


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: type[asyncio.AbstractEventLoop] = uvloop.Loop
    return factory


if __name__ == "__main__":
    sys.exit(main())
