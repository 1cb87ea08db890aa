"""Hand a listening socket over as systemd does: ``python -m loadtests.chaos.activated FD COMMAND``.

See sd_listen_fds(3). The command takes this process's place, and its number.
"""

from __future__ import annotations

import os
import sys

#: SD_LISTEN_FDS_START
FIRST = 3


def main(arguments: list[str]) -> None:
    """Execute the command with the socket where it looks for it."""
    given = int(arguments[0])
    if given == FIRST:
        os.set_inheritable(FIRST, True)  # noqa: FBT003 -- positional-only in os
    else:
        os.dup2(given, FIRST)
        os.close(given)
    told = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "http"}
    os.execve(arguments[1], arguments[1:], {**os.environ, **told})


if __name__ == "__main__":
    main(sys.argv[1:])
