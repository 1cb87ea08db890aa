"""A stand-in for both kinds of children, small enough to start in a blink.

It serves as a real one does towards the supervisor (board, sockets, handover, signals), and does
as it is told: a client sends one line to any of its sockets and gets one line of JSON back.
``who``, ``hold`` (the connection counts as in flight until closed), ``hang``, ``die``,
``stubborn`` (SIGTERM is ignored from then on).
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from gateway.board import layout
from gateway.board.board import Board
from gateway.channel import spare
from gateway.channel.childspec import ChildSpec
from gateway.channel.handover import Server, State, spec_sockets
from gateway.channel.unix import bind_unix


class Loop:
    """The two calls that ``Server`` wants, over a selector."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()

    def add_reader(self, fd: int, callback: Callable[[], object], /) -> None:
        self.selector.register(fd, selectors.EVENT_READ, callback)

    def remove_reader(self, fd: int, /) -> None:
        self.selector.unregister(fd)


class Child:
    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.board = Board.attach(spec.board, spec.slabs)
        self.loop = Loop()
        self.held: set[socket.socket] = set()
        self.ending = False
        self.stubborn = False
        self.state = "starting"
        fds = spec.admin if spec.role == "control" else [fd for _, fd in spec.sockets]
        self.listeners = [socket.socket(fileno=fd) for fd in fds]
        self.note("start")

    @property
    def name(self) -> str:
        return "control" if self.spec.role == "control" else f"worker-{self.spec.slot}"

    def note(self, what: str) -> None:
        line = f"{time.monotonic():.6f} {self.name} {os.getpid()} {what}\n"
        with (Path(self.spec.run_dir) / "events.log").open("a") as log:
            log.write(line)

    def tell_state(self, number: int) -> None:
        self.state = layout.STATE_NAMES[number]
        if self.spec.role == "control":
            self.board.set_control_state(number)
        else:
            self.board.slab(self.spec.slab)[layout.S_STATE] = number

    def beat(self) -> None:
        if self.spec.role == "control":
            self.board.beat_control(time.monotonic_ns())
        else:
            self.board.slab(self.spec.slab)[layout.S_HEARTBEAT] = time.monotonic_ns()

    def told(self) -> State:
        spec = self.spec
        return State(
            role=spec.role,
            pid=os.getpid(),
            slot=spec.slot,
            slab=spec.slab,
            slabs=spec.slabs,
            boot=spec.boot,
            state=self.state,
            forced_stable=Path(spec.rollback_flag).exists(),
        )

    def serve(self) -> None:
        spec = self.spec
        control = spec.role == "control"
        server = Server(
            bind_unix(spec.admin_socket if control else spec.worker_socket),
            self.loop,
            board=spec.board,
            state=self.told,
            sockets=lambda: () if self.ending else spec_sockets(spec),
        )
        for listener in self.listeners:
            listener.listen(100)  # one beside others is bound only until its worker listens
            self.loop.add_reader(listener.fileno(), functools.partial(self.accept, listener))
        self.tell_state(layout.STATE_READY)
        while not (self.ending and not self.held):
            self.beat()
            for key, _ in self.loop.selector.select(0.1):
                key.data()
        server.close()
        self.note("exit")

    def accept(self, listener: socket.socket) -> bool:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return False
        connection.settimeout(None)
        if self.spec.role != "control":
            slab = self.board.slab(self.spec.slab)
            slab[layout.S_ACCEPTED] += 1
            slab[layout.S_CONNECTIONS] += 1
        self.obey(connection)
        return True

    def obey(self, connection: socket.socket) -> None:
        command = connection.makefile("r").readline().strip()
        # Before the answer: the test may send a signal as soon as it has it.
        self.stubborn = self.stubborn or command == "stubborn"
        if command == "hold":
            self.held.add(connection)
            self.loop.add_reader(connection.fileno(), lambda: self.let_go(connection))
        told = {"pid": os.getpid(), "slot": self.spec.slot, "slab": self.spec.slab}
        told["boot"] = self.spec.boot  # type: ignore[assignment]  # a line of JSON, no more
        with contextlib.suppress(OSError):
            connection.sendall(json.dumps(told).encode() + b"\n")
        if command == "die":
            os._exit(3)
        if command == "hang":
            while True:
                signal.pause()
        if command != "hold":
            self.close(connection)

    def let_go(self, connection: socket.socket) -> None:
        connection.recv(100)
        self.loop.remove_reader(connection.fileno())
        self.held.discard(connection)
        self.close(connection)

    def close(self, connection: socket.socket) -> None:
        connection.close()
        if self.spec.role != "control":
            self.board.slab(self.spec.slab)[layout.S_CONNECTIONS] -= 1

    def on_term(self, *_: object) -> None:
        self.note("term")
        if self.stubborn or self.ending:
            return
        self.ending = True
        self.tell_state(layout.STATE_DRAINING)
        for listener in self.listeners:
            while self.accept(listener):
                pass
            self.loop.remove_reader(listener.fileno())
            listener.close()


def main() -> None:
    mode = sys.argv[1]
    if "--try" in sys.argv:
        sys.exit("this version is of no use" if mode == "useless" else 0)
    if mode == "slow" and spare.VARIABLE in os.environ:
        time.sleep(1.0)  # as if it still loaded modules
    if mode == "stuck" and spare.VARIABLE in os.environ:
        signal.pause()  # before it says that it has loaded everything
    mute_spare = mode == "mute-spare" and spare.VARIABLE in os.environ
    spec = spare.inherited()
    if spec is None:
        sys.exit(0)
    child = Child(spec)
    if mode == "crash":
        sys.exit(1)
    signal.signal(signal.SIGTERM, child.on_term)
    signal.signal(signal.SIGHUP, lambda *_: child.note("hup"))
    mute = mode == "mute" and not os.environ.get("FAKE_CHILD_SERVES")
    if mute or mute_spare:  # never says that it is ready, never beats
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        while True:
            signal.pause()
    child.serve()


if __name__ == "__main__":
    main()
