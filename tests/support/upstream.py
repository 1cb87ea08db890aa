"""An upstream that says exactly the octets that a test scripts, on real sockets.

``Upstream(script)`` calls the script with a ``Conversation`` for each connection that it accepts,
in a thread of its own; all are over when its ``with`` block ends. A script reads like its part::

    def truncated(say: Conversation) -> None:
        say.read_head()
        say.send(b"HTTP/1.1 200 OK\\r\\nContent-Length: 10\\r\\n\\r\\nhalf")
        say.close()
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self


class PeerGoneError(ConnectionError):
    """The peer has closed (or the test is over) where the script expected more."""


class Conversation:
    """One accepted connection. Every wait is bounded by ``patience`` seconds."""

    def __init__(self, peer: socket.socket, over: threading.Event, patience: float) -> None:
        peer.settimeout(patience)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = peer
        self.over = over
        self.patience = patience
        self.pending = b""
        #: Heads read on this connection, in order.
        self.heads: list[bytes] = []

    def _more(self) -> None:
        try:
            data = self.socket.recv(65536)
        except OSError as error:
            raise PeerGoneError(str(error)) from error
        if not data:
            raise PeerGoneError("closed by the peer")
        self.pending += data

    def read_until(self, mark: bytes) -> bytes:
        """Return everything up to ``mark`` and with it. Raises PeerGoneError."""
        while (at := self.pending.find(mark)) < 0:
            self._more()
        taken, self.pending = self.pending[: at + len(mark)], self.pending[at + len(mark) :]
        return taken

    def read_head(self) -> bytes:
        """Return one request head, its empty line included. Raises PeerGoneError."""
        head = self.read_until(b"\r\n\r\n")
        self.heads.append(head)
        return head

    def read_exactly(self, octets: int) -> bytes:
        """Return exactly so many octets. Raises PeerGoneError."""
        while len(self.pending) < octets:
            self._more()
        taken, self.pending = self.pending[:octets], self.pending[octets:]
        return taken

    def read_body(self, head: bytes) -> bytes:
        """Return the body that a head announces, chunked ones raw. Raises PeerGoneError."""
        lower = head.lower()
        if b"\r\ntransfer-encoding: chunked" in lower:
            return self.read_until(b"0\r\n\r\n")
        at = lower.find(b"\r\ncontent-length:")
        return b"" if at < 0 else self.read_exactly(int(lower[at + 17 :].split(b"\r\n")[0]))

    def read_to_end(self) -> bytes:
        """Return what comes until the peer closes its side."""
        with contextlib.suppress(PeerGoneError):
            while True:
                self._more()
        taken, self.pending = self.pending, b""
        return taken

    def send(self, data: bytes) -> None:
        """Send octets. Raises PeerGoneError where the peer takes no more."""
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise PeerGoneError(str(error)) from error

    def answer(self, body: bytes = b"ok", status: str = "200 OK", fields: str = "") -> None:
        """Send a whole answer with a length."""
        head = f"HTTP/1.1 {status}\r\n{fields}Content-Length: {len(body)}\r\n\r\n"
        self.send(head.encode() + body)

    def finish_writing(self) -> None:
        """Close our sending side; the other stays open."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close in good order."""
        self.socket.close()

    def reset(self) -> None:
        """Close with a TCP reset."""
        linger = struct.pack("ii", 1, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.socket.close()

    def hang(self) -> None:
        """Say nothing until the test is over (or patience ends)."""
        self.over.wait(self.patience)


Script = Callable[[Conversation], None]


def always(body: bytes, fields: str = "") -> Script:
    """Return a script that answers every request on a connection with 200 and ``body``."""

    def script(say: Conversation) -> None:
        while True:
            head = say.read_head()
            say.read_body(head)
            say.answer(b"" if head.startswith(b"HEAD ") else body, fields=fields)

    return script


class Upstream:
    """A scripted TCP server on 127.0.0.1; use as a context manager.

    ``conversations`` keeps every connection that was accepted, ``failure`` the first error of a
    script other than PeerGoneError; it is raised when the block ends.
    """

    def __init__(self, script: Script, *, port: int = 0, patience: float = 20.0) -> None:
        self.script = script
        self.patience = patience
        self.over = threading.Event()
        self.conversations: list[Conversation] = []
        self.failure: BaseException | None = None
        self.listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self.port: int = self.listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept, name="upstream", daemon=True)

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def heads(self) -> list[bytes]:
        """Every request head read so far, connection by connection."""
        return [head for each in self.conversations for head in each.heads]

    def _accept(self) -> None:
        while not self.over.is_set():
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            conversation = Conversation(peer, self.over, self.patience)
            self.conversations.append(conversation)
            thread = threading.Thread(target=self._play, args=(conversation,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _play(self, conversation: Conversation) -> None:
        try:
            self.script(conversation)
        except PeerGoneError:
            pass
        except BaseException as error:  # noqa: BLE001  re-raised in the test's own thread
            self.failure = self.failure or error
        finally:
            conversation.socket.close()

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.over.set()
        # Closing a listener does not wake an accept() in another thread; shutting it down does.
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._acceptor.join(5)
        for conversation in self.conversations:
            with contextlib.suppress(OSError):
                conversation.socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        if self.failure is not None and error is None:
            raise self.failure
