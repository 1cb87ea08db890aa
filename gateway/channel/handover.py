"""How a running child is asked for its state, and hands its sockets to a new supervisor.

A worker listens at ``ChildSpec.worker_socket``, control at ``ChildSpec.admin_socket``. A client
connects, sends one line of JSON, and gets one line back, after which the child closes:

- ``{"ask": "state"}`` gives ``State``'s fields, and how the process is as ``vitals``;
- ``{"ask": "takeover"}`` gives these and ``addresses``; with the line come descriptors
  (``SCM_RIGHTS``): the board's, then a listening socket for each address, in their order;
- ``{"ask": "snapshot"}`` gives ``{"octets": N}`` of a worker, and one descriptor: of a file in
  memory with the snapshot that it serves, for a control process that has lost it;
- anything else gives ``{"error": "..."}``.

The child goes on as before: what it handed over are second descriptors of the same sockets.
Standard library only, no event loop: the supervisor is a client, children mount ``Server`` on
their loop.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from gateway.channel.unix import connect_unix, peer_pid

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gateway.channel.childspec import ChildSpec

#: Octets of a question and of an answer at most.
MAX_QUESTION: Final = 1024
MAX_ANSWER: Final = 64 * 1024
#: Octets of a snapshot at most.
MAX_SNAPSHOT: Final = 64 * 1024 * 1024
#: Descriptors with one answer at most (Linux takes 253 in one message).
MAX_DESCRIPTORS: Final = 250
#: Questioners at once; the one that has been there longest gives way.
MAX_CONNECTIONS: Final = 16


class HandoverError(Exception):
    """A child gave no proper answer. ``pid`` is the process behind the socket, 0 if unknown."""

    def __init__(self, text: str, pid: int = 0) -> None:
        super().__init__(text)
        self.pid = pid


class NobodyThereError(HandoverError):
    """No process listens at the path: it is left over from one that has died."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a child says of itself. ``state`` is a name of ``layout.STATE_NAMES``.

    ``topology`` and ``traffic`` are the snapshot's numbers that it serves (0: none yet); ``slot``
    and ``slab`` are -1 for control.
    """

    role: str
    pid: int
    slot: int
    slab: int
    slabs: int
    boot: str
    state: str
    topology: int = 0
    traffic: int = 0
    forced_stable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Handed:
    """A child's state, the board and its listening sockets, each with its address.

    On the asker's side the descriptors are its own, to be closed by it.
    """

    state: State
    board: int
    sockets: tuple[tuple[str, int], ...]

    def close(self) -> None:
        """Close all descriptors."""
        for fd in (self.board, *(fd for _, fd in self.sockets)):
            with contextlib.suppress(OSError):
                os.close(fd)


class Loop(Protocol):
    """What ``Server`` needs of an event loop; asyncio's and uvloop's have it."""

    def add_reader(self, fd: int, callback: Callable[[], object], /) -> object:
        """Call back whenever the descriptor is readable."""

    def remove_reader(self, fd: int, /) -> object:
        """Stop that."""


def spec_sockets(spec: ChildSpec) -> tuple[tuple[str, int], ...]:
    """Return the (address, descriptor) pairs that a child inherited."""
    fds = spec.admin if spec.role == "control" else tuple(fd for _, fd in spec.sockets)
    return tuple(zip(spec.addresses, fds, strict=True))


def answer(
    question: bytes,
    state: Callable[[], State],
    handed: Callable[[], Handed],
    snapshot: Callable[[], bytes],
    vitals: Callable[[], dict[str, object]] = dict,
) -> tuple[bytes, list[int]]:
    """Return the answer to one question's line, and the descriptors that go with it.

    A snapshot's descriptor is the caller's to close, the others are not.
    """
    try:
        ask = json.loads(question)["ask"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return _line({"error": 'expected one line like {"ask": "state"}'}), []
    if ask == "state":
        return _line({**dataclasses.asdict(state()), "vitals": vitals()}), []
    if ask == "takeover":
        what = handed()
        fds = [what.board, *(fd for _, fd in what.sockets)]
        addresses = [address for address, _ in what.sockets]
        return _line({**dataclasses.asdict(what.state), "addresses": addresses}), fds
    if ask == "snapshot":
        octets = snapshot()
        if not 0 < len(octets) <= MAX_SNAPSHOT:
            return _line({"error": "no snapshot is served here, or one that is too large"}), []
        return _line({"octets": len(octets)}), [_in_memory(octets)]
    return _line({"error": "unknown question; expected state, takeover or snapshot"}), []


def _in_memory(octets: bytes) -> int:
    """Return the descriptor of a file that has these octets and no name. Raises OSError."""
    with (
        tempfile.TemporaryFile()
        if not hasattr(os, "memfd_create")
        else os.fdopen(os.memfd_create("snapshot", os.MFD_CLOEXEC), "w+b") as file
    ):
        file.write(octets)
        file.flush()
        return os.dup(file.fileno())


class Server:
    """A child's side, mounted on its loop; never blocks it.

    ``state`` is asked at each question. ``sockets`` gives the (address, descriptor) pairs that
    are still open: none once the child has stopped listening. ``snapshot`` gives what is served,
    as ``snapshotfile`` has it; empty: nothing is. ``vitals`` says how the process is.
    """

    def __init__(
        self,
        listener: socket.socket,
        loop: Loop,
        *,
        board: int,
        state: Callable[[], State],
        sockets: Callable[[], tuple[tuple[str, int], ...]],
        snapshot: Callable[[], bytes] = bytes,
        vitals: Callable[[], dict[str, object]] = dict,
    ) -> None:
        self._vitals = vitals
        self._listener = listener
        self._loop = loop
        self._board = board
        self._state = state
        self._sockets = sockets
        self._snapshot = snapshot
        #: Questioners and what they have sent so far, the oldest first.
        self._asking: dict[socket.socket, bytearray] = {}
        listener.settimeout(0.0)
        loop.add_reader(listener.fileno(), self._accept)

    def close(self) -> None:
        """Stop answering and close the listener. The path stays: the next one replaces it."""
        if self._listener.fileno() < 0:
            return
        for connection in list(self._asking):
            self._drop(connection)
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # gone again, or no descriptors left: the asker sees a time-out and repeats
        connection.settimeout(0.0)
        if len(self._asking) >= MAX_CONNECTIONS:
            self._drop(next(iter(self._asking)))
        self._asking[connection] = bytearray()
        self._loop.add_reader(connection.fileno(), lambda: self._readable(connection))

    def _readable(self, connection: socket.socket) -> None:
        asked = self._asking[connection]
        try:
            data = connection.recv(MAX_QUESTION)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        asked += data
        line, newline, _ = asked.partition(b"\n")
        if newline:
            self._reply(connection, bytes(line))
        if newline or not data or len(asked) > MAX_QUESTION:
            self._drop(connection)

    def _reply(self, connection: socket.socket, line: bytes) -> None:
        made: list[int] = []
        # One line into an empty buffer goes out whole; whatever else happens is the asker's loss.
        with contextlib.suppress(OSError):
            data, fds = answer(line, self._state, self._handed, self._snapshot, self._vitals)
            made = fds if data.startswith(b'{"octets"') else []
            if fds:
                socket.send_fds(connection, [data], fds)
            else:
                connection.send(data)
        _close_all(made)

    def _handed(self) -> Handed:
        return Handed(state=self._state(), board=self._board, sockets=self._sockets())

    def _drop(self, connection: socket.socket) -> None:
        del self._asking[connection]
        self._loop.remove_reader(connection.fileno())
        connection.close()


def ask_state(path: str | Path, timeout: float = 1.0) -> State:
    """Ask the child behind ``path`` for its state.

    Raises NobodyThereError, or HandoverError where no proper answer comes in ``timeout`` seconds.
    """
    line, fds, pid = _ask(path, "state", timeout)
    _close_all(fds)
    try:
        return _state(line)
    except (ValueError, TypeError) as error:
        raise HandoverError(f"{path}: no state in the answer: {error}", pid) from error


def take_over(path: str | Path, timeout: float = 2.0) -> Handed:
    """Take the board and the listening sockets from the child behind ``path``.

    Raises NobodyThereError, or HandoverError where no proper answer comes in ``timeout`` seconds.
    """
    line, fds, pid = _ask(path, "takeover", timeout)
    try:
        return _taken(line, fds)
    except (ValueError, TypeError) as error:
        _close_all(fds)
        raise HandoverError(f"{path}: not a proper handover: {error}", pid) from error


def ask_snapshot(path: str | Path, timeout: float = 1.0) -> bytes:
    """Ask the worker behind ``path`` for the snapshot that it serves.

    Raises NobodyThereError, or HandoverError where no proper answer comes in ``timeout`` seconds.
    """
    values, fds, pid = _ask(path, "snapshot", timeout)
    try:
        octets = values.get("octets")
        if not isinstance(octets, int) or not 0 < octets <= MAX_SNAPSHOT or len(fds) != 1:
            raise HandoverError(f"{path}: no snapshot in the answer", pid)
        with os.fdopen(os.dup(fds[0]), "rb") as file:
            file.seek(0)
            found = file.read(octets)
    except OSError as error:
        raise HandoverError(f"{path}: no snapshot to read: {error}", pid) from error
    finally:
        _close_all(fds)
    if len(found) != octets:
        raise HandoverError(f"{path}: {len(found)} octets of a snapshot of {octets}", pid)
    return found


def _line(values: dict[str, object]) -> bytes:
    return json.dumps(values).encode() + b"\n"


def _state(values: dict[str, object]) -> State:
    """Build a State. Raises ValueError or TypeError where a field is missing or of another type.

    What another version says beside these is its own.
    """
    names = {field.name for field in dataclasses.fields(State)}
    known = {name: value for name, value in values.items() if name in names}
    state = State(**known)  # type: ignore[arg-type]  # checked below, field by field
    for field in dataclasses.fields(State):
        if type(getattr(state, field.name)).__name__ != field.type:
            raise ValueError(f"{field.name} is not {field.type}")
    return state


def _taken(values: dict[str, object], fds: list[int]) -> Handed:
    """Build a Handed. Raises ValueError or TypeError where descriptors and addresses differ."""
    addresses = values.pop("addresses", None)
    if not isinstance(addresses, list) or len(fds) != len(addresses) + 1:
        raise ValueError(f"{len(fds)} descriptors for the addresses {addresses}")
    sockets = tuple(zip(map(str, addresses), fds[1:], strict=True))
    return Handed(state=_state(values), board=fds[0], sockets=sockets)


def _ask(path: str | Path, ask: str, timeout: float) -> tuple[dict[str, object], list[int], int]:
    """Return an answer's values, the descriptors that came with it, and who answered."""
    pid = 0
    fds: list[int] = []
    try:
        with connect_unix(path, timeout) as connection:
            pid = peer_pid(connection)
            connection.sendall(_line({"ask": ask}))
            return _values(_receive(connection, fds)), fds, pid
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NobodyThereError(f"{path}: nobody listens there") from error
    except (OSError, ValueError, RecursionError) as error:
        _close_all(fds)
        raise HandoverError(f"{path}: no proper answer: {error}", pid) from error


def _values(line: bytes) -> dict[str, object]:
    """Read an answer's line. Raises ValueError where it is none or tells an error."""
    values = json.loads(line)
    if not isinstance(values, dict) or "error" in values:
        raise ValueError(f"the answer is {line[:200]!r}")
    return values


def _receive(connection: socket.socket, fds: list[int]) -> bytes:
    """Read to the end of the line, collecting descriptors into ``fds``."""
    data = b""
    cloexec = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
    while b"\n" not in data:
        more, got, flags, _ = socket.recv_fds(connection, 65536, MAX_DESCRIPTORS, cloexec)
        fds += got
        for fd in got:
            os.set_inheritable(fd, False)  # noqa: FBT003 -- positional-only in os
        if not more or len(data) > MAX_ANSWER or flags & socket.MSG_CTRUNC:
            raise ValueError(f"it broke off after {len(data)} octets, {len(fds)} descriptors")
        data += more
    return data


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
