from __future__ import annotations

import os
import signal
import stat
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.cli import run as run_module
from gateway.supervisor import signals
from gateway.supervisor.plan import VARIABLE, Plan

CONFIG = """
version: 1
listen: [{address: 127.0.0.1:8080}, {address: "[::1]:8081"}]
workers: 3
state: {path: STATE/gateway.db}
admin:
  tokens: [{name: me, role: admin, token_env: GATEWAY_TEST_TOKEN}]
services:
  web:
    blue: {endpoints: ["http://127.0.0.1:3001"]}
    drain_timeout: 12s
  other:
    blue: {endpoints: ["http://127.0.0.1:3002"]}
    drain_timeout: 45s
routes: [{path: /, service: web}]
"""


class Became(Exception):  # noqa: N818 -- no error: what exec would have turned this process into
    def __init__(self, path: str, argv: tuple[str, ...], env: dict[str, str]) -> None:
        super().__init__(path)
        self.path = path
        self.argv = argv
        self.env = env


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def become(path: str, argv: tuple[str, ...], env: dict[str, str]) -> None:
        raise Became(path, argv, env)

    monkeypatch.setattr(os, "execve", become)
    monkeypatch.setenv("GATEWAY_TEST_TOKEN", "0123456789abcdef0123456789abcdef")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "gateway.yaml"
    path.write_text(CONFIG.replace("STATE", str(tmp_path / "state")))
    return path


def invoke(file: Path) -> Result:
    return CliRunner().invoke(run_module.command, ["--config", str(file)])


def planned(file: Path) -> tuple[Became, Plan]:
    result = invoke(file)
    assert isinstance(result.exception, Became), result.output
    return result.exception, Plan.decode(result.exception.env[VARIABLE])


def test_it_becomes_the_supervisor_with_the_configurations_plan(file: Path, tmp_path: Path) -> None:
    became, plan = planned(file)
    assert became.path == sys.executable
    assert became.argv == (sys.executable, "-P", "-m", "gateway.supervisor")
    assert plan == Plan(
        listen=("127.0.0.1:8080", "[::1]:8081"),
        admin="127.0.0.1:9090",
        workers=3,
        run_dir=str((tmp_path / "state").resolve() / "run"),
        config=str(file),
        drain_timeout=45.0,
    )
    assert stat.S_IMODE((tmp_path / "state" / "run").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("first", "held"),
    [(os.getpid(), True), (os.getpid() + 1, False)],
    ids=["first process", "another"],
)
def test_a_containers_first_process_has_signals_wait(
    file: Path, monkeypatch: pytest.MonkeyPatch, first: int, *, held: bool
) -> None:
    """The kernel would drop them; anybody else is ended by them at once, as is usual."""
    monkeypatch.setattr(run_module, "FIRST", first)
    try:
        planned(file)
        waiting = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        assert (signal.SIGTERM in waiting) is held
    finally:
        signals.let_come()


def test_a_relative_file_and_state_are_made_absolute(file: Path, tmp_path: Path) -> None:
    file.write_text(CONFIG.replace("STATE", "var"))
    _, plan = planned(Path("gateway.yaml"))
    assert plan.config == str(file)
    assert plan.run_dir == str((tmp_path / "var").resolve() / "run")


def test_a_wrong_file_starts_nothing_and_tells_all_errors(file: Path, tmp_path: Path) -> None:
    file.write_text("version: 1\nworkers: none\nservices: {web: {bleu: {}}}\n")
    result = invoke(file)
    assert result.exit_code == 2
    assert f"{file}:2:" in result.output
    assert f"{file}:3:" in result.output
    assert not (tmp_path / "var").exists()


def test_a_missing_file_is_told(file: Path) -> None:
    result = invoke(file.with_name("absent.yaml"))
    assert result.exit_code == 2
    assert "absent.yaml" in result.output


def test_a_state_folder_that_cannot_be_made_is_one_clear_line(file: Path, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "run").write_text("a file")
    result = invoke(file)
    assert result.exit_code == 4
    [line] = result.output.splitlines()
    assert line.startswith("gateway: the state folder cannot be used: ")
    assert str(tmp_path / "state" / "run") in line


def test_a_state_folder_that_cannot_be_written_is_one_clear_line(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)
    result = invoke(file)
    assert result.exit_code == 4
    assert result.output == f"gateway: the state folder cannot be written: {tmp_path / 'state'}\n"


def test_one_worker_per_core_that_we_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "CPU_MAX", Path("/nonexistent"))
    expected = os.cpu_count() or 1
    assert 1 <= run_module.cores() <= expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max 100000", 8),
        ("100000 100000", 1),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("9000000 100000", 8),
        ("junk", 8),
        ("1 0", 8),
    ],
)
def test_a_containers_share_bounds_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: int
) -> None:
    share = tmp_path / "cpu.max"
    share.write_text(text + "\n")
    monkeypatch.setattr(run_module, "CPU_MAX", share)
    if sys.version_info >= (3, 13):
        monkeypatch.setattr(os, "process_cpu_count", lambda: 8)
    else:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert run_module.cores() == expected


def test_what_is_warned_of_is_said_and_keeps_nothing_from_starting(file: Path) -> None:
    assert invoke(file).stderr == ""
    file.write_text(file.read_text() + "acme: {folder: none}\ntrusted_proxies: [0.0.0.0/0]\n")
    result = invoke(file)
    assert isinstance(result.exception, Became)
    folder, networks = result.stderr.splitlines()
    assert folder.startswith(f"{file}:16:16: acme.folder: cannot be read now")
    assert networks.startswith(f"{file}:17:19: trusted_proxies[0]: 0.0.0.0/0: everybody in it")
    assert networks.endswith(" [warning]")
