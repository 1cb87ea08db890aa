"""Unix sockets between the gateway's own processes: made privately, replaced in one step.

A socket's path has 104 to 108 octets at most by system; state folders may lie deeper. On Linux a
longer one is reached through a descriptor of its folder. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Octets of a path that every system takes as it is.
SHORT: Final = 100

_PEER_CREDENTIALS: Final = struct.Struct("iII")  # pid, uid, gid (unix(7), SO_PEERCRED)
_LOCAL_PEERPID: Final = 0x002  # macOS, <sys/un.h>


@contextlib.contextmanager
def short_address(path: str | Path) -> Iterator[str]:
    """Give an address for ``bind`` and ``connect`` that is short enough, while inside.

    Raises OSError: the folder cannot be opened, or (ENAMETOOLONG) there is no short form here.
    """
    whole = Path(path)
    if len(os.fsencode(whole)) <= SHORT:
        yield str(whole)
        return
    if sys.platform != "linux" or len(os.fsencode(whole.name)) > SHORT - 30:
        raise OSError(errno.ENAMETOOLONG, f"longer than {SHORT} octets for a socket", str(whole))
    folder = os.open(whole.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{whole.name}"
    finally:
        os.close(folder)


def private_folder(path: str | Path) -> None:
    """Make a folder that only its owner enters (0700); its parents are made as usual.

    Raises OSError where it cannot be made, and PermissionError where another user owns it: who
    owns the folder can replace what we put there.
    """
    folder = Path(path)
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, f"owned by user {found.st_uid}", str(folder))
    if stat.S_IMODE(found.st_mode) != 0o700:
        folder.chmod(0o700)


def bind_unix(path: str | Path, *, mode: int = 0o600, backlog: int = 128) -> socket.socket:
    """Return a non-blocking listening socket at ``path``, in place of a socket that was there.

    It is bound beside and renamed: nobody ever meets the path without a listener behind it, or a
    listener with wider permissions than ``mode``. Raises OSError (FileExistsError where something
    other than a socket is there).
    """
    whole = Path(path)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(whole.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "not a socket, not replaced", str(whole))
    beside = whole.with_name(f".{whole.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short_address(beside) as address:
            listener.bind(address)
        beside.chmod(mode)
        listener.settimeout(0.0)
        listener.listen(backlog)
        beside.rename(whole)
    except BaseException:
        listener.close()
        beside.unlink(missing_ok=True)
        raise
    return listener


def connect_unix(path: str | Path, timeout: float) -> socket.socket:
    """Return a connected socket, blocking at most ``timeout`` seconds per operation.

    Raises OSError: FileNotFoundError or ConnectionRefusedError where nobody listens there.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        with short_address(path) as address:
            connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


def listened_to(path: str | Path) -> bool:
    """Tell whether a process listens at ``path``."""
    try:
        connect_unix(path, 1.0).close()
    except TimeoutError:
        return True  # its accept queue is full
    except OSError:
        return False
    return True


def peer_pid(connection: socket.socket) -> int:
    """Return the process on the other side; for a client, the one that called ``listen``.

    The kernel answers, so it holds for a peer that hangs. 0 where the system does not tell.
    """
    if hasattr(socket, "SO_PEERCRED"):
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
        return int(_PEER_CREDENTIALS.unpack(raw)[0])
    if sys.platform == "darwin":
        return connection.getsockopt(0, _LOCAL_PEERPID)
    return 0
