"""What a process has of the machine: descriptors and memory, as ``/proc`` tells them.

Looked at when somebody asks (a scrape, ``gateway status``), never on a request's way: reading the
table of ten thousand descriptors takes milliseconds. Standard library only.
"""

from __future__ import annotations

import os
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")


def open_files(pid: int = 0) -> int:
    """Return how many descriptors a process (0: this one) has open; 0 where nobody tells.

    For another process that needs its user's rights, or root's.
    """
    folders = (f"/proc/{pid}/fd",) if pid else ("/proc/self/fd", "/dev/fd")
    # The folder's own descriptor is one of them, where they are ours.
    own = pid in {0, os.getpid()}
    for folder in folders:
        try:
            return sum(1 for _ in Path(folder).iterdir()) - own
        except OSError:
            continue
    return 0


def resident(pid: int = 0) -> int:
    """Return a process's resident memory (0: this one's) in octets; 0 where nobody tells."""
    try:
        return int(Path(f"/proc/{pid or 'self'}/statm").read_text().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0
