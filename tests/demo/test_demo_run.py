"""`gateway demo` as a real process: it works, and whatever happens it leaves nothing behind."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import msgspec
import pytest

from gateway.cli import invoke
from gateway.client import running_demo
from gateway.client.running_demo import ClientFile
from gateway.demo import run as demo_run
from gateway.demo.children import DemoError, marked
from gateway.demo.layout import free_layout
from gateway.demo.ports import HOST

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks into /proc"),
]

START_LIMIT = 75.0
RUN_VARIABLE = "GATEWAY_TEST_RUN"


def until(fact: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for a real process, with a deadline."""
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)


def _newsroom(content: ClientFile, source: str, times: int) -> list[int]:
    """Ask for articles from an address of the loopback network, as docs/limits.md shows."""
    with httpx.Client(transport=httpx.HTTPTransport(local_address=source)) as client:
        url = f"{content.public}/api/newsroom/articles"
        return [client.get(url).status_code for _ in range(times)]


class Demo:
    """A `gateway demo` process and all that come from it, told by a variable they inherit."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.run = secrets.token_hex(8)
        self.environment = {
            **os.environ,
            RUN_VARIABLE: self.run,
            "XDG_RUNTIME_DIR": str(folder / "runtime"),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        self.environment.pop("GATEWAY_TOKEN", None)
        self.folder = folder
        self.output = folder / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "gateway", "demo", "--free-ports", *options],
                cwd=folder,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def said(self) -> str:
        return self.output.read_text()

    def wait_until_up(self) -> ClientFile:
        until(
            lambda: "Ctrl-C stops everything" in self.said() or self.process.poll() is not None,
            START_LIMIT,
            "the demo is up",
        )
        assert self.process.poll() is None, self.said()
        content = running_demo.read(self.folder / running_demo.FOLDER_FILE)
        assert content is not None
        return content

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another verb in the demo's folder, as a person would."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "gateway", *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def processes(self) -> list[int]:
        """Every process of this demo, itself included."""
        wanted = f"{RUN_VARIABLE}={self.run}".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found

    def end(self) -> None:
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def start_demo(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    started: list[Demo] = []

    def start(*options: str) -> Demo:
        demo = Demo(tmp_path, *options)
        started.append(demo)
        return demo

    yield start
    for demo in started:
        demo.end()


def test_the_check_visits_everything_and_leaves_nothing(start_demo: Callable[..., Demo]) -> None:
    demo = start_demo("--check")
    demo.process.wait(START_LIMIT + 30)
    assert demo.process.returncode == 0, demo.said()
    assert "green: website, events, newsroom, ivor, live answer" in demo.said()
    assert demo.processes() == []
    assert not (demo.folder / running_demo.FOLDER_FILE).exists()
    elsewhere = running_demo.user_file(demo.environment)
    assert elsewhere is not None
    assert not elsewhere.exists()


def test_verbs_find_the_demo_and_ctrl_c_ends_it_though_a_child_has_died(
    start_demo: Callable[..., Demo],
) -> None:
    demo = start_demo()
    content = demo.wait_until_up()
    assert (demo.folder / "var/demo/token").stat().st_mode & 0o077 == 0

    assert "website" in demo.command("status").stdout
    assert 429 not in _newsroom(content, HOST, 40)  # internal callers meet no limit
    found = _newsroom(content, "127.0.0.2", 40)
    assert found[:21] == [200] * 21
    assert 429 in found
    assert demo.command("traffic", "set", "20").returncode == 0
    broken = demo.command("demo", "break", "ivor", "green", "--fail", "0.5", "--replica", "1")
    assert broken.stdout == "ivor-green-1: fails 50% of requests\n"
    assert "ivor-green-1: healthy" in demo.command("demo", "heal").stdout
    again = demo.command("demo", "--free-ports")
    assert again.returncode == 4
    assert "a demo runs here already" in again.stderr

    victim = next(one for one in content.instances if one.service == "newsroom")
    os.kill(victim.pid, signal.SIGKILL)
    until(lambda: "newsroom-blue-1 ended (-9)" in demo.said(), 10, "the death is told")
    lost = demo.command("demo", "heal", "newsroom", "blue")
    assert lost.returncode == 3

    demo.process.send_signal(signal.SIGINT)
    demo.process.wait(30)
    assert demo.process.returncode == 0, demo.said()
    assert "by force" not in demo.said()
    assert demo.processes() == []
    assert not (demo.folder / running_demo.FOLDER_FILE).exists()


def test_the_verbs_do_what_they_say_to_a_real_gateway(
    start_demo: Callable[..., Demo],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    demo = start_demo()
    content = demo.wait_until_up()
    monkeypatch.chdir(demo.folder)
    for name in ("GATEWAY_TOKEN", "GATEWAY_ADMIN"):
        monkeypatch.delenv(name, raising=False)

    def color(path: str = "/") -> str:
        with urllib.request.urlopen(content.public + path, timeout=10) as answer:
            found: str = answer.headers["X-Demo-Color"]
        return found

    def done(*arguments: str, code: int = 0) -> str:
        status = invoke(arguments)  # in this process: a new one for each takes its time
        said = capsys.readouterr()
        assert status == code, (arguments, said)
        return said.out + said.err

    assert color() == "blue"
    done("traffic", "set", "0.01", "--reason", "a split, to bind a token to")
    secret = str(demo.folder / "var/demo/cohort.secret")
    host = content.public.removeprefix("http://").partition(":")[0]
    arguments = ["cohort-token", "candidate", "--host", host, "--secret-file", secret]
    token = done(*arguments).strip()
    assert color(f"/?gw_override={token}") == "green"
    assert color(f"/?gw_override={token[:-1]}") == "blue"

    assert "412 stale-revision" in done("traffic", "set", "5", "--if-revision", "1", code=4)
    done("traffic", "set", "100")
    assert color() == "green"
    done("rollback", "--local", "--config", content.config)
    assert color() == "blue"
    assert "forced to stable" in done("status")
    done("rollback", "--local", "--undo", "--config", content.config)
    assert color() == "green"
    done("traffic", "finalize")
    done("rollback", "--to", "previous", "--reason", "x")
    assert color() == "blue"
    assert "is drained" in done("pool", "drain", "ivor", "candidate", "--timeout", "5s")
    nobody = "http://127.0.0.1:1"
    assert "L1" in done("pool", "set", "ivor", "candidate", nobody, "--wait", "1s", code=6)
    done("pool", "reset", "ivor", "candidate")
    done("pool", "isolate", "events", "candidate")
    done("pool", "lift", "events", "candidate")
    assert "Nothing changed" in done("reload")
    done("adopt", "green")
    assert color() == "green"
    done("traffic", "set", "20", "--service", "nonsense", code=4)
    audit = done("audit", "--limit", "100")
    for action in ("traffic.set", "rollback", "adopt", "pool.drain"):
        assert action in audit


def test_sigterm_during_the_start_leaves_nothing(start_demo: Callable[..., Demo]) -> None:
    demo = start_demo()
    until(lambda: len(demo.processes()) >= 4, 30, "some services have been started")
    demo.process.terminate()
    demo.process.wait(30)
    assert demo.process.returncode == 0, demo.said()
    assert demo.processes() == []


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl(PR_SET_PDEATHSIG)")
def test_a_demo_that_is_killed_outright_leaves_nothing_for_long(
    start_demo: Callable[..., Demo],
) -> None:
    demo = start_demo()
    demo.wait_until_up()
    demo.process.kill()
    demo.process.wait()
    until(lambda: demo.processes() == [], 30, "services and gateway have ended by themselves")
    assert running_demo.read(demo.folder / running_demo.FOLDER_FILE) is None


def test_a_gateway_that_is_killed_ends_the_demo_with_its_workers(
    start_demo: Callable[..., Demo],
) -> None:
    demo = start_demo()
    demo.wait_until_up()
    status = demo.command("status", "--json")
    [supervisor] = [
        process["pid"]
        for process in msgspec.json.decode(status.stdout)["processes"]
        if process["role"] == "supervisor"
    ]
    os.kill(supervisor, signal.SIGKILL)
    demo.process.wait(30)
    assert demo.process.returncode == 4
    assert "the gateway ended (-9)" in demo.said()
    assert demo.processes() == []


def test_a_start_that_fails_half_way_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = free_layout()
    monkeypatch.setenv(RUN_VARIABLE, secrets.token_hex(8))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setattr(demo_run, "free_layout", lambda: layout)
    seen: list[str] = []
    mark = secrets.token_hex(8)
    monkeypatch.setattr(secrets, "token_hex", lambda _size: mark)
    taken = layout.processes[5]
    with socket.socket() as other:
        other.bind((HOST, taken.port))
        other.listen()
        options = demo_run.Options(folder=tmp_path / "demo", free_ports=True)
        with pytest.raises(DemoError, match=f"{taken.identity.name} ended while starting") as error:
            demo_run.run_demo(options, seen.append)
    assert f"port {taken.port}" in str(error.value)
    assert marked(mark) == []
    assert not (tmp_path / "demo" / "client.json").exists()


def test_a_taken_port_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = free_layout()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setattr(demo_run, "usual_layout", lambda: layout)
    with socket.socket() as other:
        other.bind((HOST, layout.public))
        other.listen()
        assert invoke(["demo", "--dir", str(tmp_path / "demo")]) == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"gateway demo: port {layout.public} (for the public address) is in use:"
        " end what listens there, or use `gateway demo --free-ports`\n"
    )


def test_a_folder_that_cannot_be_made_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo_run, "usual_layout", free_layout)
    (tmp_path / "file").write_text("")
    assert invoke(["demo", "--dir", str(tmp_path / "file" / "demo")]) == 4
    assert capsys.readouterr().err == f"gateway demo: {tmp_path}/file/demo: Not a directory\n"
