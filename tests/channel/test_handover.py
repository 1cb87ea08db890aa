from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.channel import handover
from gateway.channel.childspec import ChildSpec
from gateway.channel.unix import bind_unix, connect_unix

T = TypeVar("T")

STATE = handover.State(
    role="worker",
    pid=os.getpid(),
    slot=1,
    slab=3,
    slabs=6,
    boot="b00",
    state="ready",
    topology=4,
    traffic=9,
    forced_stable=True,
)


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


class Child:
    """A child's side on this test's loop, the asker in a thread."""

    def __init__(self, path: Path, listener: socket.socket, board: int) -> None:
        self.path = path
        self.sockets: tuple[tuple[str, int], ...] = (("127.0.0.1:0", listener.fileno()),)
        self.board = board
        self.server = handover.Server(
            bind_unix(path),
            asyncio.get_running_loop(),
            board=board,
            state=lambda: STATE,
            sockets=lambda: self.sockets,
            vitals=lambda: {"tasks": 3},
        )

    async def asked(self, ask: Callable[[Path], T]) -> T:
        return await asyncio.to_thread(ask, self.path)


@pytest.fixture
async def child(tmp_path: Path, listening: socket.socket) -> Child:
    board, other_end = os.pipe()
    os.close(other_end)
    return Child(tmp_path / "worker-3.sock", listening, board)


@pytest.fixture(autouse=True)
async def _closed(child: Child) -> object:
    yield
    child.server.close()
    child.server.close()
    os.close(child.board)


async def test_a_child_tells_its_state(child: Child) -> None:
    assert await child.asked(handover.ask_state) == STATE


async def test_a_child_hands_over_second_descriptors(
    child: Child, listening: socket.socket
) -> None:
    handed = await child.asked(handover.take_over)
    assert handed.state == STATE
    assert os.path.sameopenfile(handed.board, child.board)
    [(address, fd)] = handed.sockets
    assert address == "127.0.0.1:0"
    assert fd != listening.fileno()
    assert not os.get_inheritable(fd)
    port = listening.getsockname()[1]
    with socket.socket(fileno=fd) as taken, socket.create_connection(("127.0.0.1", port)):
        assert taken.getsockname() == listening.getsockname()
        taken.accept()[0].close()
    os.close(handed.board)
    handed.close()  # closed ones are no error


async def test_a_child_that_listens_no_more_hands_over_the_board_alone(child: Child) -> None:
    child.sockets = ()
    handed = await child.asked(handover.take_over)
    assert handed.sockets == ()
    handed.close()


async def test_a_question_may_come_in_pieces(child: Child) -> None:
    reader, writer = await asyncio.open_unix_connection(str(child.path))
    for octet in b'{"ask": "state"}\n':
        writer.write(bytes([octet]))
        await asyncio.sleep(0)
    line = await reader.readline()
    assert json.loads(line) == {**dataclasses.asdict(STATE), "vitals": {"tasks": 3}}
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    "question", [b"\n", b"state\n", b"[]\n", b'{"ask": 3}\n', b"\xff\n", b"[" * 1000 + b"\n"]
)
async def test_another_question_gets_an_error(child: Child, question: bytes) -> None:
    reader, writer = await asyncio.open_unix_connection(str(child.path))
    writer.write(question)
    assert "error" in json.loads(await reader.readline())
    writer.close()
    await writer.wait_closed()


async def test_an_endless_question_is_cut_off(child: Child) -> None:
    reader, writer = await asyncio.open_unix_connection(str(child.path))
    writer.write(b"x" * 10_000)
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    with pytest.raises(ConnectionResetError):
        await writer.wait_closed()
    assert await child.asked(handover.ask_state) == STATE


async def test_silent_askers_give_way_to_later_ones(child: Child) -> None:
    silent = [connect_unix(child.path, 1.0) for _ in range(handover.MAX_CONNECTIONS + 5)]
    assert await child.asked(handover.ask_state) == STATE
    assert silent[0].recv(1) == b""
    for connection in silent:
        connection.close()


async def test_asking_nobody(child: Child, tmp_path: Path) -> None:
    child.server.close()
    for path in (child.path, tmp_path / "absent.sock"):
        with pytest.raises(handover.NobodyThereError, match="nobody listens"):
            handover.ask_state(path)


def _answered_by(path: Path, data: bytes) -> Iterator[None]:
    """Answer one question with ``data``, from this thread."""
    with bind_unix(path) as listener:
        listener.settimeout(5.0)
        yield
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(5.0)
            connection.recv(1024)  # or closing would reset what was sent
            connection.sendall(data)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "no proper answer"),
        (b"junk\n", "no proper answer"),
        (b"[]\n", "no proper answer"),
        (b'{"error": "go away"}\n', "go away"),
        (b'{"pid": 3}\n', "no state in the answer|not a proper handover"),
    ],
)
@pytest.mark.parametrize("ask", [handover.ask_state, handover.take_over])
async def test_an_improper_answer_names_the_process(
    tmp_path: Path, data: bytes, expected: str, ask: Callable[[Path], object]
) -> None:
    path = tmp_path / "liar.sock"
    answering = _answered_by(path, data)
    next(answering)
    asked = asyncio.create_task(asyncio.to_thread(ask, path))
    await asyncio.to_thread(lambda: next(answering, None))
    with pytest.raises(handover.HandoverError, match=expected) as caught:
        await asked
    assert caught.value.pid in {os.getpid(), 0}


async def test_a_hung_child_is_named_after_the_time_out(tmp_path: Path) -> None:
    path = tmp_path / "hung.sock"
    with bind_unix(path), pytest.raises(handover.HandoverError) as caught:
        handover.take_over(path, timeout=0.05)
    assert not isinstance(caught.value, handover.NobodyThereError)
    assert caught.value.pid in {os.getpid(), 0}


@given(st.binary(max_size=100))
def test_any_question_has_an_answer(question: bytes) -> None:
    def handed() -> handover.Handed:
        raise AssertionError("never asked here")

    line, fds = handover.answer(question, lambda: STATE, handed, lambda: b"")
    assert json.loads(line)
    assert line.endswith(b"\n")
    assert fds == []


def test_a_spec_pairs_addresses_with_descriptors() -> None:
    common = ChildSpec(
        role="worker", slabs=4, board=3, boot="b", run_dir="/run", config="c", slab=1, slot=0
    )
    worker = dataclasses.replace(
        common, sockets=((0, 11), (1, 12)), addresses=("127.0.0.1:80", "unix:/x")
    )
    assert handover.spec_sockets(worker) == (("127.0.0.1:80", 11), ("unix:/x", 12))
    control = dataclasses.replace(common, role="control", admin=(9,), addresses=("[::1]:9",))
    assert handover.spec_sockets(control) == (("[::1]:9", 9),)
    assert ChildSpec.decode(worker.encode()) == worker
    assert ChildSpec.decode(control.encode()) == control
