"""A small file system of a test's own, that can be full."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class SmallDisk:
    """A mounted file system. ``fill`` leaves no room, ``empty`` gives it back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self) -> None:
        """Take all the room that there is, to the last octet."""
        fd = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            for size in (1 << 16, 1 << 12, 1):
                piece = b"x" * size
                while True:
                    try:
                        if os.write(fd, piece) < size:
                            break
                    except OSError:
                        break
        finally:
            os.close(fd)

    def empty(self) -> None:
        """Give the room back."""
        self._ballast.unlink()

    @property
    def free(self) -> int:
        """Octets that are free."""
        return shutil.disk_usage(self.path).free


@contextmanager
def small_disk(folder: Path, octets: int) -> Iterator[SmallDisk]:
    """Mount a file system of this size; skip the test where that is not allowed."""
    path = folder / "disk"
    path.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("only root can mount a small file system")
    command = [mount, "-t", "tmpfs", "-o", f"size={octets},mode=0755", "none", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield SmallDisk(path)
    finally:
        # Lazily: what a process that is about to end has open holds nobody up.
        subprocess.run(["umount", "--lazy", str(path)], check=False)
