"""``gateway backup`` and ``gateway restore``: files, refusals, exit statuses."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.channel import snapshotfile
from gateway.channel.messages import Apply
from gateway.channel.unix import bind_unix
from gateway.cli import invoke
from gateway.client.exits import Exit
from gateway.config.snapshot import Topology, Traffic
from gateway.control.backup import BackupError
from gateway.control.state import ServiceState, State
from gateway.control.store import SqliteStore
from gateway.supervisor.lock import OwnerLock
from tests.support.processes import ROOT

CONFIG = """
version: 1
state: {path: PATH}
admin: {tokens: [{name: me, role: admin, token_env: NOT_SET_IN_THIS_SHELL}]}
services: {web: {blue: {endpoints: ["http://127.0.0.1:3001"]}}}
"""


async def fill(path: Path, revision: int) -> None:
    store = await SqliteStore.open(path)
    web = ServiceState(name="web", stable="green", generation=1)
    await store.save(State(revision=revision, salt=b"s", services=(web,)), [])
    await store.close()


async def revision_of(path: Path) -> int:
    store = await SqliteStore.open(path)
    state = await store.load()
    await store.close()
    assert state is not None
    return state.revision


def served(run_dir: Path, revision: int) -> None:
    """Leave the snapshot that workers have served last."""
    run_dir.mkdir(mode=0o700, exist_ok=True)
    last = Apply(number=1, topology=Topology(number=1), traffic=Traffic(revision=revision))
    snapshotfile.write(str(run_dir / "snapshot-1.bin"), last)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    asyncio.run(fill(folder / "gateway.db", 5))
    file = tmp_path / "gateway.yaml"
    file.write_text(CONFIG.replace("PATH", str(folder / "gateway.db")))
    return file


def test_a_backup_is_its_owners_alone_and_never_replaces_a_file_unasked(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "backups" / "one.tgz"
    assert invoke(["backup", "--config", str(config), str(out)]) == Exit.REFUSED
    assert "No such file" in capsys.readouterr().err
    out.parent.mkdir()
    assert invoke(["backup", "--config", str(config), str(out)]) == Exit.DONE
    assert "revision 5, 1 services" in capsys.readouterr().out
    assert out.stat().st_mode & 0o777 == 0o600
    assert list(out.parent.iterdir()) == [out]
    assert invoke(["backup", "--config", str(config), str(out)]) == Exit.REFUSED
    assert "--force" in capsys.readouterr().err
    assert invoke(["backup", "--config", str(config), str(out), "--force"]) == Exit.DONE
    assert invoke(["restore", "--check", str(out)]) == Exit.DONE
    assert "whole; revision 5" in capsys.readouterr().out


def test_a_backup_that_lacks_what_is_in_force_is_written_and_is_no_success(
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    served(tmp_path / "state" / "run", 6)
    out = tmp_path / "b.tgz"
    assert invoke(["backup", "--config", str(config), str(out)]) == Exit.WAIT_RAN_OUT
    assert "revision 6 is in force" in capsys.readouterr().err
    assert invoke(["restore", "--check", str(out)]) == Exit.DONE
    served(tmp_path / "state" / "run", 5)
    assert invoke(["backup", "--config", str(config), str(out), "--force"]) == Exit.DONE


def test_a_backup_of_a_higher_revision_is_never_replaced(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    out = folder / "b.tgz"
    assert invoke(["backup", "--config", str(config), str(out)]) == Exit.DONE
    good = out.read_bytes()
    store = tmp_path / "state" / "gateway.db"
    store.unlink()
    asyncio.run(fill(store, 2))
    force = ["backup", "--force", "--config", str(config), str(out)]
    assert invoke(force) == Exit.REFUSED
    assert "has revision 5 and the state store 2" in capsys.readouterr().err
    assert out.read_bytes() == good
    assert list(folder.iterdir()) == [out]
    out.write_bytes(good[:-200])  # of no use to anybody
    assert invoke(force) == Exit.DONE
    asyncio.run(fill(store, 3))
    assert invoke(force) == Exit.DONE


def test_a_configuration_with_errors_is_no_hindrance(config: Path, tmp_path: Path) -> None:
    config.write_text(config.read_text() + "nonsense: true\n")
    assert invoke(["backup", "--config", str(config), str(tmp_path / "b.tgz")]) == Exit.DONE


def test_without_a_store_there_is_nothing_to_back_up(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state" / "gateway.db").unlink()
    out = tmp_path / "b.tgz"
    assert invoke(["backup", "--config", str(config), str(out)]) == Exit.REFUSED
    assert "there is no state store" in capsys.readouterr().err
    assert not out.exists()


def test_streams_go_through_pipes(config: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gateway"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    made = subprocess.run(
        [*command, "backup", "--config", config, "-"],
        capture_output=True,
        env=environment,
        check=True,
        timeout=60,
    )
    asyncio.run(fill(tmp_path / "state" / "gateway.db", 9))
    subprocess.run(
        [*command, "restore", "--config", config, "-"],
        input=made.stdout,
        env=environment,
        check=True,
        timeout=60,
    )
    assert asyncio.run(revision_of(tmp_path / "state" / "gateway.db")) == 10


def test_a_restore_is_refused_while_anything_of_a_gateway_runs(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "b.tgz"
    assert invoke(["backup", "--config", str(config), str(out)]) == Exit.DONE
    run_dir = tmp_path / "state" / "run"
    run_dir.mkdir(mode=0o700)
    lock = OwnerLock(run_dir / "lock")
    assert invoke(["restore", "--config", str(config), str(out)]) == Exit.REFUSED
    said = capsys.readouterr().err
    assert "another gateway" in said
    assert "systemctl stop gateway.socket gateway.service" in said
    lock.close()
    orphan = bind_unix(run_dir / "control-admin.sock")
    assert invoke(["restore", "--config", str(config), str(out)]) == Exit.REFUSED
    said = capsys.readouterr().err
    assert "control-admin.sock" in said
    assert "systemctl stop gateway.socket gateway.service" in said
    orphan.close()
    assert asyncio.run(revision_of(tmp_path / "state" / "gateway.db")) == 5
    # A socket's file that nobody listens on any more is no process.
    assert invoke(["restore", "--config", str(config), str(out)]) == Exit.DONE
    assert asyncio.run(revision_of(tmp_path / "state" / "gateway.db")) == 6


def test_the_flag_of_a_local_rollback_is_as_it_was(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flag = tmp_path / "state" / "run" / "force-stable"
    flag.parent.mkdir(mode=0o700)
    flag.touch()
    out = tmp_path / "b.tgz"
    assert invoke(["backup", "--config", str(config), str(out)]) == Exit.DONE
    flag.unlink()
    assert invoke(["restore", "--config", str(config), str(out)]) == Exit.DONE
    assert flag.exists()
    assert "rollback --local --undo" in capsys.readouterr().out


def test_revisions_go_on_above_what_workers_have_served(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.tgz"
    assert invoke(["backup", "--config", str(config), str(out)]) == Exit.DONE
    served(tmp_path / "state" / "run", 90)
    assert invoke(["restore", "--config", str(config), str(out)]) == Exit.DONE
    assert asyncio.run(revision_of(tmp_path / "state" / "gateway.db")) == 91


@pytest.mark.parametrize("before", [False, True], ids=["not-there", "there"])
def test_the_flag_is_raised_before_the_store_is_replaced(
    before: bool, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = tmp_path / "state" / "run" / "force-stable"
    flag.parent.mkdir(mode=0o700)
    flag.touch()
    out = tmp_path / "b.tgz"
    assert invoke(["backup", "--config", str(config), str(out)]) == Exit.DONE
    if not before:
        flag.unlink()
    seen = []

    def refuses(*args: object, **kwargs: object) -> None:
        seen.append(flag.exists())
        raise BackupError("no")

    monkeypatch.setattr("gateway.control.restoring.put", refuses)
    assert invoke(["restore", "--config", str(config), str(out)]) == Exit.REFUSED
    assert seen == [True]
    assert flag.exists() is before


def test_the_flag_stays_where_the_store_was_replaced_and_its_folder_not_synced(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = tmp_path / "state" / "run" / "force-stable"
    flag.parent.mkdir(mode=0o700)
    flag.touch()
    out = tmp_path / "b.tgz"
    assert invoke(["backup", "--config", str(config), str(out)]) == Exit.DONE
    flag.unlink()

    def fails(folder: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("gateway.control.restoring.sync_folder", fails)
    assert invoke(["restore", "--config", str(config), str(out)]) == Exit.REFUSED
    assert flag.exists()


def test_a_damaged_backup_changes_nothing(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "b.tgz"
    assert invoke(["backup", "--config", str(config), str(out)]) == Exit.DONE
    out.write_bytes(out.read_bytes()[:-200])
    before = (tmp_path / "state" / "gateway.db").read_bytes()
    assert invoke(["restore", "--config", str(config), str(out)]) == Exit.REFUSED
    assert f"{out}: it is damaged" in capsys.readouterr().err
    assert (tmp_path / "state" / "gateway.db").read_bytes() == before
    assert invoke(["restore", "--config", str(config), str(tmp_path / "no")]) == Exit.REFUSED
    assert invoke(["restore", str(out)]) == Exit.USAGE


def test_root_is_told_to_be_the_owner(
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "b.tgz"
    assert invoke(["backup", "--config", str(config), str(out)]) == Exit.DONE
    found = (tmp_path / "state").stat()

    class Elsewhere:
        st_uid = 54321
        st_mode = found.st_mode

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    stat = Path.stat

    def owned(path: Path, **kwargs: bool) -> object:
        return Elsewhere if path.name == "state" else stat(path, **kwargs)

    monkeypatch.setattr(Path, "stat", owned)
    assert invoke(["restore", "--config", str(config), str(out)]) == Exit.REFUSED
    assert "sudo -u 54321 gateway restore" in capsys.readouterr().err
