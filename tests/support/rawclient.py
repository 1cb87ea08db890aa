"""A client that sends exactly the octets that a test gives it and reads one answer at a time."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import Self


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as it came. ``fields`` keeps order and repeats; names are lower case."""

    status: int
    reason: str
    fields: tuple[tuple[str, str], ...]
    body: bytes
    raw_head: bytes

    def field(self, name: str) -> str | None:
        """Return the first value of a field, None where it is absent."""
        return next((value for key, value in self.fields if key == name.lower()), None)


class RawClient:
    """One connection to 127.0.0.1; use as a context manager. Every wait is bounded."""

    def __init__(self, port: int, timeout: float = 20.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.pending = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send octets."""
        self.socket.sendall(data)

    def get(self, target: str = "/", fields: str = "", host: str = "test.example") -> Answer:
        """Send one GET (``fields`` are whole lines with CRLF) and read its answer."""
        self.send(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n".encode())
        return self.answer()

    def _more(self) -> bool:
        data = self.socket.recv(65536)
        self.pending += data
        return bool(data)

    def _until(self, mark: bytes) -> bytes:
        while (at := self.pending.find(mark)) < 0:
            if not self._more():
                raise ConnectionError(f"closed before {mark!r}; so far: {self.pending!r}")
        taken, self.pending = self.pending[: at + len(mark)], self.pending[at + len(mark) :]
        return taken

    def _exactly(self, octets: int) -> bytes:
        while len(self.pending) < octets:
            if not self._more():
                raise ConnectionError(f"closed {octets - len(self.pending)} octets early")
        taken, self.pending = self.pending[:octets], self.pending[octets:]
        return taken

    def answer(self, *, to_head: bool = False) -> Answer:
        """Read one answer, 1xx ones too. ``to_head``: it answers a HEAD and has no body.

        Raises ConnectionError where the connection ends early.
        """
        raw = self._until(b"\r\n\r\n")
        line, *rest = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        _, code, *reason = line.split(" ", 2)
        pairs = [entry.partition(":") for entry in rest]
        fields = tuple((name.lower(), value.strip()) for name, _, value in pairs)
        status = int(code)
        bodiless = to_head or status < 200 or status in {204, 304}
        body = b"" if bodiless else self._body(dict(fields))
        return Answer(status, "".join(reason), fields, body, raw)

    def _body(self, fields: dict[str, str]) -> bytes:
        if fields.get("transfer-encoding", "").lower() == "chunked":
            return self._chunked()
        if "content-length" in fields:
            return self._exactly(int(fields["content-length"]))
        return self.read_to_end()

    def _chunked(self) -> bytes:
        body = b""
        while size := int(self._until(b"\r\n").split(b";")[0], 16):
            body += self._exactly(size)
            self._exactly(2)
        while self._until(b"\r\n") != b"\r\n":
            pass
        return body

    def read_to_end(self) -> bytes:
        """Return what comes until the peer closes."""
        while self._more():
            pass
        taken, self.pending = self.pending, b""
        return taken

    def resets(self) -> None:
        """Have the end of the connection be a reset: whoever only closes may read on."""
        linger = struct.pack("ii", 1, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def closed(self) -> bool:
        """Tell whether the peer closes without saying more (waits up to the time-out for it)."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False
