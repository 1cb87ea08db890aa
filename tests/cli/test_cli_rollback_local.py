from __future__ import annotations

import dataclasses
import errno
import os
import selectors
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.channel.handover import Server, State
from gateway.channel.unix import bind_unix
from gateway.cli import rollback_local as module
from gateway.cli.rollback_local import rollback_local

CONFIG = """
version: 1
state: {path: PATH}
admin: {tokens: [{name: me, role: admin, token_env: NOT_SET_IN_THIS_SHELL}]}
services: {web: {blue: {endpoints: ["http://127.0.0.1:3001"]}}}
"""

STATE = State(role="worker", pid=7, slot=0, slab=0, slabs=4, boot="b", state="ready")


class Workers:
    """Workers' own sockets, answered from a thread."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._selector = selectors.DefaultSelector()
        self._stop, waiting = os.pipe()[::-1]
        self._selector.register(waiting, selectors.EVENT_READ, None)
        self._servers: list[Server] = []
        self._thread = threading.Thread(target=self._run)
        self._waiting = waiting

    def add_reader(self, fd: int, callback: Callable[[], object], /) -> None:
        self._selector.register(fd, selectors.EVENT_READ, callback)

    def remove_reader(self, fd: int, /) -> None:
        self._selector.unregister(fd)

    def add(self, slot: int, forced: Callable[[], bool]) -> None:
        def state() -> State:
            return dataclasses.replace(STATE, slot=slot, pid=100 + slot, forced_stable=forced())

        listener = bind_unix(self.run_dir / f"worker-{slot}.sock")
        self._servers.append(Server(listener, self, board=-1, state=state, sockets=tuple))

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                key.data()

    def close(self) -> None:
        os.write(self._stop, b".")
        if self._thread.is_alive():
            self._thread.join()
        for server in self._servers:
            server.close()
        self._selector.close()
        os.close(self._stop)
        os.close(self._waiting)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "state" / "run").mkdir(parents=True)
    file = tmp_path / "gateway.yaml"
    file.write_text(CONFIG.replace("PATH", str(tmp_path / "state" / "gateway.db")))
    return file


@pytest.fixture
def flag(config: Path) -> Path:
    return config.parent / "state" / "run" / "force-stable"


@pytest.fixture
def workers(flag: Path) -> Iterator[Workers]:
    made = Workers(flag.parent)
    yield made
    made.close()


def test_every_worker_takes_the_flag_up_and_lets_go_of_it(
    config: Path, flag: Path, workers: Workers, capsys: pytest.CaptureFixture[str]
) -> None:
    workers.add(0, flag.exists)
    workers.add(1, flag.exists)
    workers.start()
    assert rollback_local(config, undo=False) == 0
    assert flag.exists()
    out = capsys.readouterr().out
    assert out.splitlines() == [
        "worker 0 (process 100, ready): on stable",
        "worker 1 (process 101, ready): on stable",
    ]
    assert rollback_local(config, undo=True) == 0
    assert not flag.exists()
    assert "worker 1 (process 101, ready): as control says" in capsys.readouterr().out
    assert rollback_local(config, undo=True) == 0


def test_a_worker_that_takes_its_time_is_waited_for(
    config: Path, flag: Path, workers: Workers
) -> None:
    asked = iter([False] * 5)
    workers.add(0, lambda: next(asked, True))
    workers.start()
    assert rollback_local(config, undo=False) == 0
    assert next(asked, None) is None


def test_a_worker_that_does_not_is_told_of(
    config: Path,
    flag: Path,
    workers: Workers,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, "DEADLINE", 0.1)
    workers.add(0, flag.exists)
    workers.add(1, lambda: False)
    workers.start()
    assert rollback_local(config, undo=False) == 6
    captured = capsys.readouterr()
    assert "worker 1 (process 101, ready): not yet on stable" in captured.out
    assert "1 of 2 workers not on stable after 0.1 s" in captured.err
    assert flag.exists()


def test_a_hung_worker_is_told_of(
    config: Path,
    flag: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, "DEADLINE", 0.1)
    monkeypatch.setattr(module, "ASK_TIMEOUT", 0.05)
    with bind_unix(flag.parent / "worker-0.sock"):
        assert rollback_local(config, undo=False) == 6
    assert "worker-0.sock: no answer" in capsys.readouterr().out


def test_without_a_worker_the_flag_waits_for_one(
    config: Path, flag: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bind_unix(flag.parent / "worker-0.sock").close()  # left over from one that died
    assert rollback_local(config, undo=False) == 3
    assert f"no worker runs here; {flag} is in force" in capsys.readouterr().err
    assert flag.exists()


def test_where_no_gateway_has_run_nothing_is_made(
    config: Path, flag: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flag.parent.rmdir()
    assert rollback_local(config, undo=False) == 3
    assert "no gateway has run here" in capsys.readouterr().err
    assert not flag.parent.exists()


def test_a_full_disk_stops_no_rollback(
    config: Path, flag: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    workers.add(0, flag.exists)
    workers.start()
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        assert rollback_local(config, undo=False) == 0
    assert flag.exists()


def test_a_flag_that_cannot_be_written_is_told(
    config: Path, flag: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flag.mkdir()
    assert rollback_local(config, undo=False) == 4
    assert str(flag) in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["workers: nine", "services: {}", "unknown: 1"])
def test_a_file_that_is_wrong_elsewhere_is_good_enough(
    config: Path, flag: Path, workers: Workers, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(f"state: {{path: {flag.parent.parent}/gateway.db}}\n{wrong}\n")
    workers.add(0, flag.exists)
    workers.start()
    assert rollback_local(config, undo=False) == 0
    assert "has errors" in capsys.readouterr().err


def test_a_file_that_is_no_yaml_means_the_default_place(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "var" / "run").mkdir(parents=True)
    config.write_text("state: {path: [\n")
    assert rollback_local(config, undo=False) == 3
    assert (tmp_path / "var" / "run" / "force-stable").exists()
