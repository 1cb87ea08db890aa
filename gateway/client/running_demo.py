"""The file by which the command line finds a running demo.

A demo writes it into its own folder and into the user's runtime folder, readable by nobody else
(it holds a token), and removes both at its end. What a killed demo leaves is ignored once its
process is gone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from gateway.config.snapshot import Color

FOLDER_FILE = Path("var/demo/client.json")


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """One service process: what it serves on, and where its knob is."""

    service: str
    color: Color
    replica: int
    port: int
    control: int
    pid: int


class ClientFile(msgspec.Struct, frozen=True, kw_only=True):
    """A running demo: its admin address and token, its public address, its processes."""

    admin: str
    token: str
    pid: int
    public: str
    config: str
    instances: tuple[Instance, ...] = ()


def user_file(environment: Mapping[str, str]) -> Path | None:
    """Return where the running demo of this user is told, whatever the current folder.

    None for a user without a runtime folder and a home.
    """
    runtime = environment.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime) / "gateway" / "demo.json"
    if cache := environment.get("XDG_CACHE_HOME"):
        return Path(cache) / "gateway" / "demo.json"
    home = environment.get("HOME")
    return Path(home) / ".cache" / "gateway" / "demo.json" if home else None


def write(path: Path, content: ClientFile) -> None:
    """Write the file for its owner's eyes only, whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(content))
    temporary.replace(path)


def read(path: Path) -> ClientFile | None:
    """Return a running demo's file; None where there is none that can be trusted.

    A file of another user, or one that others may read or write, is as good as none.
    """
    try:
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            if facts.st_uid != os.getuid() or facts.st_mode & 0o077:
                return None
            content = msgspec.json.decode(file.read(1 << 20), type=ClientFile)
    except (OSError, msgspec.DecodeError):
        return None
    return content if alive(content.pid) else None


def alive(pid: int) -> bool:
    """Tell whether a process with this id is there."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def find(folder: Path, environment: Mapping[str, str]) -> ClientFile | None:
    """Return the demo that runs in ``folder``, else this user's, else None."""
    found = read(folder / FOLDER_FILE)
    elsewhere = user_file(environment)
    return found or (read(elsewhere) if elsewhere else None)


def remove(path: Path, pid: int) -> None:
    """Remove the file if it is (still) this process's own."""
    try:
        content = msgspec.json.decode(path.read_bytes(), type=ClientFile)
    except (OSError, msgspec.DecodeError):
        return
    if content.pid == pid:
        path.unlink(missing_ok=True)
