"""Control as its own process, started as the supervisor starts it."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway.board import layout
from gateway.board.board import Board
from gateway.channel.childspec import VARIABLE, ChildSpec
from gateway.channel.unix import bind_unix, connect_unix

CONFIG = """\
version: 1
state: {{path: {path}/gateway.db}}
admin:
  tokens: [{{name: pipeline, role: admin, token_env: TEST_TOKEN}}]
routes: [{{path: /, service: ivor}}]
services:
  ivor:
    blue: {{endpoints: ["http://127.0.0.1:9"]}}
    green: {{endpoints: ["http://127.0.0.1:9"]}}
"""
TOKEN = "a-long-enough-secret-token"


class Process:
    """A board, a channel and an admin socket that outlive each control started on them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.board = Board.create(4)
        self.channel = bind_unix(path / "control.sock")
        self.admin = socket.create_server(("127.0.0.1", 0))
        self.unix = bind_unix(path / "admin.sock")
        self.url = f"http://127.0.0.1:{self.admin.getsockname()[1]}"
        self.process: subprocess.Popen[bytes] | None = None
        (path / "gateway.yaml").write_text(CONFIG.format(path=path))

    def start(self) -> None:
        spec = ChildSpec(
            role="control",
            slabs=4,
            board=self.board.fd,
            boot="b00t",
            run_dir=str(self.path),
            config=str(self.path / "gateway.yaml"),
            admin=(self.admin.fileno(), self.unix.fileno()),
            channel=self.channel.fileno(),
            addresses=("127.0.0.1:9090", "unix:admin.sock"),
        )
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "gateway.control"],
            env={
                **os.environ,
                VARIABLE: spec.encode(),
                "TEST_TOKEN": TOKEN,
                "PYTHONPATH": str(Path(__file__).parents[2]),
            },
            pass_fds=(
                self.board.fd,
                self.admin.fileno(),
                self.unix.fileno(),
                self.channel.fileno(),
            ),
            stderr=subprocess.PIPE,
        )
        self.until(layout.STATE_READY)

    def until(self, state: int) -> None:
        deadline = time.monotonic() + 20
        while self.board.words[layout.H_CONTROL_STATE] != state:
            assert self.process is not None
            assert self.process.poll() is None or state == layout.STATE_GONE, self.said()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def said(self) -> str:
        assert self.process is not None
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def end(self, number: int) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(10)
        if self.process.stderr is not None:
            self.process.stderr.close()
        return code

    def call(self, method: str, path: str, body: object = None) -> dict[str, object]:
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: dict[str, object] = json.load(answer)
            return found

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process is not None and self.process.stderr is not None:
            self.process.stderr.close()
        self.channel.close()
        self.admin.close()
        self.unix.close()
        self.board.close()


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Process]:
    process = Process(tmp_path)
    yield process
    process.close()


def test_it_serves_reloads_and_ends_by_signals(control: Process) -> None:
    control.start()
    assert control.call("GET", "/healthz") == {"status": "ok", "detail": ""}
    with connect_unix(control.path / "admin.sock", 10) as admin:
        admin.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert admin.recv(4096).startswith(b"HTTP/1.0 200")
    heartbeat = control.board.words[layout.H_CONTROL_HEARTBEAT]
    config = control.path / "gateway.yaml"
    config.write_text(
        config.read_text() + "  events: {blue: {endpoints: ['http://127.0.0.1:9']}}\n"
    )
    assert control.process is not None
    control.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 10
    while len(control.call("GET", "/v1/traffic")["services"]) != 2:  # type: ignore[arg-type]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    config.write_text("nonsense")
    with pytest.raises(urllib.error.HTTPError) as error:
        control.call("POST", "/v1/config/reload")
    assert error.value.code == 422
    error.value.close()
    assert control.board.words[layout.H_CONTROL_HEARTBEAT] >= heartbeat
    assert control.end(signal.SIGTERM) == 0
    assert control.board.words[layout.H_CONTROL_STATE] == layout.STATE_GONE


def test_traffic_survives_a_kill_of_control(control: Process) -> None:
    control.start()
    moved = control.call("PUT", "/v1/traffic", {"candidate": 12.34, "force": True})
    control.end(signal.SIGKILL)
    control.board.words[layout.H_CONTROL_STATE] = layout.STATE_GONE
    control.start()
    kept = control.call("GET", "/v1/traffic")
    assert kept["services"] == moved["services"]
    assert kept["revision"] == moved["revision"]
    assert control.end(signal.SIGTERM) == 0


def test_a_wrong_file_is_told_with_its_faults(control: Process) -> None:
    (control.path / "gateway.yaml").write_text("version: 2\n")
    with pytest.raises(AssertionError, match=r"gateway\.yaml:1:"):
        control.start()
    assert control.process is not None
    assert control.process.wait(10) == 2


def test_without_an_inheritance_it_says_how_to_start() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "gateway.control"],
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 2
    assert b"gateway run" in done.stderr


def test_a_trial_reads_the_file_and_looks_at_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_TOKEN", TOKEN)
    path = tmp_path / "gateway.yaml"

    def tried() -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "gateway.control", "--try", path],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stderr

    path.write_text(CONFIG.format(path=tmp_path))
    assert tried() == (0, "")
    assert [each.name for each in tmp_path.iterdir()] == ["gateway.yaml"]
    with closing(sqlite3.connect(tmp_path / "gateway.db")) as connection:
        connection.execute("PRAGMA user_version = 99")
    code, said = tried()
    assert code == 4
    assert "it was written by a newer one" in said
    path.write_text(CONFIG.format(path=tmp_path).replace("routes", "rotes"))
    code, said = tried()
    assert code == 2
    assert "rotes" in said
