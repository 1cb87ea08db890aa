"""What ``gateway upgrade`` says where there is nothing to upgrade; the rest is with real ones."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.cli import upgrade as module
from gateway.cli.upgrade import CannotError
from gateway.supervisor import upgrade
from gateway.supervisor.lock import OwnerLock
from gateway.supervisor.upgrade import About, Answer
from gateway.version import VERSION

CONFIG = """
version: 1
state: {path: STATE/gateway.db}
admin: {tokens: [{name: me, role: admin, token_env: NOT_SET_IN_THIS_SHELL}]}
services: {web: {blue: {endpoints: ["http://127.0.0.1:3001"]}}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(CONFIG.replace("STATE", str(tmp_path)))
    (tmp_path / "run").mkdir(mode=0o700)
    return path


@pytest.fixture
def owner(file: Path) -> Iterator[subprocess.Popen[str]]:
    """Somebody who holds the lock, and says which signals come."""
    program = (
        "import signal, sys; from pathlib import Path\n"
        "from gateway.supervisor.lock import OwnerLock\n"
        "signal.signal(signal.SIGUSR2, lambda *_: print('asked', flush=True))\n"
        "lock = OwnerLock(Path(sys.argv[1])); print('held', flush=True)\n"
        "while True: signal.pause()"
    )
    made = subprocess.Popen(
        [sys.executable, "-c", program, file.parent / "run" / "lock"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert made.stdout is not None
    assert made.stdout.readline() == "held\n"
    yield made
    made.kill()
    made.wait()
    made.stdout.close()


def invoke(file: Path, *more: str) -> Result:
    return CliRunner().invoke(module.command, ["--config", str(file), *more])


def answering(owner: subprocess.Popen[str], run_dir: Path, **answer: object) -> threading.Thread:
    """Answer the one request that comes as a supervisor would."""

    def work() -> None:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "asked\n"
        request = upgrade.take_request(run_dir)
        assert request is not None
        told = Answer(id=request.id, old="0.0.9", **answer)  # type: ignore[arg-type]
        upgrade.write(upgrade.answer_file(run_dir, request.id), told)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_nobody_there(file: Path) -> None:
    result = invoke(file)
    assert result.exit_code == 3
    assert "no gateway runs here: nobody holds" in result.stderr
    # Left over from one that is gone; its number may be anybody's by now.
    lock = OwnerLock(file.parent / "run" / "lock")
    lock.close()
    upgrade.write(file.parent / "run" / upgrade.ABOUT_FILE, About(pid=os.getpid(), version="1"))
    assert invoke(file).exit_code == 3


def test_one_from_before_there_were_upgrades_gets_no_signal(
    file: Path, owner: subprocess.Popen[str]
) -> None:
    """It would end of it."""
    result = invoke(file)
    assert result.exit_code == 4
    assert f"(process {owner.pid}) is of a version that cannot become {VERSION}" in result.stderr
    for about in (
        About(pid=owner.pid + 1, version="1"),
        About(pid=owner.pid, version="1", format=9),
    ):
        upgrade.write(file.parent / "run" / upgrade.ABOUT_FILE, about)
        assert invoke(file).exit_code == 4
    owner.send_signal(signal.SIGUSR2)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "asked\n"
    owner.kill()
    assert owner.stdout.read() == ""


def test_one_in_another_container_gets_no_signal(file: Path, owner: subprocess.Popen[str]) -> None:
    """Its number is a stranger's among our processes."""
    about = About(pid=owner.pid, version="0.0.9", namespace="pid:[1]")
    upgrade.write(file.parent / "run" / upgrade.ABOUT_FILE, about)
    result = invoke(file)
    assert result.exit_code == 4
    assert f"runs in another container (its process {owner.pid})" in result.stderr
    owner.send_signal(signal.SIGUSR2)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "asked\n"
    owner.kill()
    assert owner.stdout.read() == ""


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ({"state": "done", "new": VERSION, "workers": 2}, 0, f"Version {VERSION} serves (0.0.9 be"),
        ({"state": "done", "new": VERSION, "board": "new"}, 0, "counters, breakers and limits beg"),
        ({"state": "refused", "text": "a\nb"}, 4, "refused, nothing has changed: a\ngateway: b\n"),
        ({"state": "rolled_back", "text": "not ready"}, 6, "gateway: not ready"),
        ({"state": "failed", "text": "no way"}, 6, "gateway: no way"),
    ],
)
def test_how_it_ended_is_told(
    file: Path,
    owner: subprocess.Popen[str],
    answer: dict[str, object],
    code: int,
    said: str,
) -> None:
    run_dir = file.parent / "run"
    upgrade.write(run_dir / upgrade.ABOUT_FILE, About(pid=owner.pid, version="0.0.9"))
    for more in ((), ("--json",)):
        thread = answering(owner, run_dir, **answer)
        result = invoke(file, *more)
        thread.join()
        assert result.exit_code == code, result.output
        if more:
            assert json.loads(result.stdout)["state"] == answer["state"]
        else:
            assert said in result.output
    assert list(run_dir.glob(upgrade.ANSWER_FILES)) == []


def test_a_supervisor_that_ends_meanwhile(file: Path, owner: subprocess.Popen[str]) -> None:
    run_dir = file.parent / "run"
    upgrade.write(run_dir / upgrade.ABOUT_FILE, About(pid=owner.pid, version="0.0.9"))

    def end() -> None:
        assert owner.stdout is not None
        owner.stdout.readline()
        owner.kill()
        owner.wait()

    thread = threading.Thread(target=end)
    thread.start()
    result = invoke(file)
    thread.join()
    assert result.exit_code == 3
    assert "has ended; workers serve on" in result.stderr


def test_one_at_a_time(file: Path, owner: subprocess.Popen[str]) -> None:
    run_dir = file.parent / "run"
    upgrade.write(run_dir / upgrade.ABOUT_FILE, About(pid=owner.pid, version="0.0.9"))
    fd = os.open(run_dir / module.LOCK, os.O_RDONLY | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    result = invoke(file)
    os.close(fd)
    assert (result.exit_code, result.stderr) == (4, "gateway: another upgrade is under way\n")


def test_without_a_file_the_running_gateways_is_read(
    file: Path, owner: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (file.parent / "var").mkdir()
    (file.parent / "run").rename(file.parent / "var" / "run")
    monkeypatch.chdir(file.parent)
    run_dir = file.parent / "var" / "run"
    file.write_text(CONFIG.replace("STATE", "var"))
    about = About(pid=owner.pid, version="0.0.9", config=str(file))
    upgrade.write(run_dir / upgrade.ABOUT_FILE, about)
    thread = answering(owner, run_dir, state="done", new=VERSION)
    result = CliRunner().invoke(module.command, [])
    thread.join()
    assert result.exit_code == 0, result.output
    # One that keeps its state elsewhere is not for this gateway.
    file.write_text(CONFIG.replace("STATE", "elsewhere"))
    result = CliRunner().invoke(module.command, [])
    assert result.exit_code == 4
    assert "is not where the gateway runs" in result.stderr


def test_ctrl_c_ends_the_command_and_says_that_the_upgrade_goes_on(
    file: Path, owner: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    about = About(pid=owner.pid, version="0.0.9")
    upgrade.write(file.parent / "run" / upgrade.ABOUT_FILE, about)

    def interrupted(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gateway.cli.upgrade.time.sleep", interrupted)
    result = invoke(file)
    assert result.exit_code == 130
    assert "the upgrade goes on without this command" in result.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_another_user_is_refused(file: Path, owner: subprocess.Popen[str]) -> None:
    assert owner.pid
    os.seteuid(65534)
    try:
        with pytest.raises(CannotError, match="Permission denied") as refused:
            module.running(file.parent / "run")
    finally:
        os.seteuid(0)
    assert refused.value.exit == 4


def test_roots_request_is_the_owners_to_read_whatever_the_umask(file: Path) -> None:
    before = os.umask(0o077)
    try:
        upgrade.write(file.parent / "run" / upgrade.ABOUT_FILE, About(pid=1, version="1"))
        with module.only_one(file.parent / "run"):
            pass
    finally:
        os.umask(before)
    for name in (upgrade.ABOUT_FILE, module.LOCK):
        assert (file.parent / "run" / name).stat().st_mode & 0o777 == 0o644


def test_wrong_usage(file: Path) -> None:
    file.write_text("version: 2")
    assert invoke(file).exit_code == 2
    assert invoke(file, "--timeout", "soon").exit_code == 2
    assert invoke(file, "--python", str(file.parent / "none")).exit_code == 2


def test_nobodys_lock_is_nobodys(tmp_path: Path) -> None:
    assert module.owner(tmp_path / "none") == 0
    (tmp_path / "lock").write_text("no number")
    assert module.owner(tmp_path / "lock") == 0
    (tmp_path / "lock").write_text(f"{os.getpid()}\n")
    assert module.owner(tmp_path / "lock") == 0
    with pytest.raises(CannotError):
        module.owner(tmp_path / "lock" / "below")
