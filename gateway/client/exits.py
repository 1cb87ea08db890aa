"""What every verb's exit status means: the one place."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit statuses, the same for every verb. Pipelines hold on to them."""

    DONE = 0
    ROLLED_BACK = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4
    HELD = 5
    WAIT_RAN_OUT = 6
    #: A fault of the command line itself (BSD's EX_SOFTWARE), never a word about a release.
    BUG = 70
    #: Ctrl-C, as shells have it: 128 + SIGINT.
    INTERRUPTED = 130


MEANING: dict[Exit, str] = {
    Exit.DONE: "done",
    Exit.ROLLED_BACK: "rolled back",
    Exit.USAGE: "wrong usage",
    Exit.UNREACHABLE: "the gateway cannot be reached",
    Exit.REFUSED: "refused by the gateway",
    Exit.HELD: "held",
    Exit.WAIT_RAN_OUT: "the wait ran out",
    Exit.BUG: "a fault of the command line",
    Exit.INTERRUPTED: "interrupted",
}
