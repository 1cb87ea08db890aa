"""A client's connection, and what is kept of a request."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be sent, and where the rows go. ``first`` is the first request's number."""

    port: int
    rate: float
    seconds: float
    output: str
    first: int = 0
    seed: int = 1


@dataclass(slots=True)
class Row:
    """One request as its client saw it.

    ``number`` is -1 where the log cannot tell it; ``status`` 0: no head came. ``left``: the client
    went away before the end, as it meant to. ``lost`` says what else went wrong.
    """

    kind: str
    number: int
    status: int = 0
    left: bool = False
    #: Its answer came to its end.
    whole: bool = False
    lost: str = ""


class Peer:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.used = time.monotonic()

    @classmethod
    async def dial(cls, port: int) -> Self:
        """Connect."""
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 21))

    async def send(self, data: bytes) -> None:
        """Send octets."""
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        """Read a head; 1xx ones but 101 are passed over."""
        while True:
            raw = await self.reader.readuntil(b"\r\n\r\n")
            line, *rest = raw.decode("latin-1").rstrip().split("\r\n")
            status = int(line.split(" ")[1])
            if status >= 200 or status == 101:
                pairs = (each.partition(":") for each in rest)
                return status, {name.lower(): value.strip() for name, _, value in pairs}

    async def body(self, status: int, fields: dict[str, str], *, to_head: bool = False) -> None:
        """Read the content."""
        if to_head or status in {204, 304}:
            return
        if fields.get("transfer-encoding", "").lower() == "chunked":
            while size := int((await self.reader.readline()).split(b";")[0], 16):
                await self.reader.readexactly(size + 2)
            await self.reader.readline()
        elif "content-length" in fields:
            await self.reader.readexactly(int(fields["content-length"]))
        else:
            await self.reader.read(-1)

    async def answer(self, row: Row, *, to_head: bool = False) -> dict[str, str]:
        """Read a whole answer into a row."""
        row.status, fields = await self.head()
        await self.body(row.status, fields, to_head=to_head)
        row.whole = True
        self.used = time.monotonic()
        return fields

    def close(self) -> None:
        """Close in good order."""
        self.writer.close()

    def reset(self) -> None:
        """Be gone: the peer gets a reset."""
        sock = self.writer.get_extra_info("socket")
        if sock is not None:
            linger = struct.pack("ii", 1, 0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()
