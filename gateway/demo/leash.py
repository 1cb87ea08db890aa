"""Run a command that ends with its parent: ``python -m gateway.demo.leash PARENT COMMAND …``.

PARENT is the process id of whoever starts it.

The gateway's supervisor is made to outlive what started it; a demo that is killed outright must
not leave one behind. On Linux the kernel sends SIGTERM once the parent has gone (prctl(2),
PR_SET_PDEATHSIG, which exec keeps); elsewhere the command runs as it is.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask for the signal, then become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it went before the kernel had been asked
            sys.exit(1)
    os.execv(command[0], command)  # noqa: S606  no shell is meant to be in between


if __name__ == "__main__":
    main()
