from __future__ import annotations

import os
import socket
import stat
import sys
from pathlib import Path

import pytest

from gateway.channel import unix

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="long paths go through /proc")


def _deep(tmp_path: Path) -> Path:
    folder = tmp_path / ("d" * 90) / ("e" * 90)
    folder.mkdir(parents=True)
    return folder


def test_a_bound_socket_is_private_and_reached(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with unix.bind_unix(path) as listener, unix.connect_unix(path, 1.0) as client:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        served, _ = listener.accept()
        client.sendall(b"hello")
        assert served.recv(10) == b"hello"
        assert unix.peer_pid(client) in {os.getpid(), 0}
        served.close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.sock"]


@linux_only
def test_a_path_longer_than_a_socket_address_works(tmp_path: Path) -> None:
    path = _deep(tmp_path) / "worker-3.sock"
    assert len(os.fsencode(path)) > 180
    with unix.bind_unix(path) as listener, unix.connect_unix(path, 1.0):
        listener.accept()[0].close()
    assert stat.S_ISSOCK(path.stat().st_mode)


@linux_only
def test_no_descriptor_is_left_of_a_long_path(tmp_path: Path) -> None:
    path = _deep(tmp_path) / "worker-3.sock"
    before = len(list(Path("/proc/self/fd").iterdir()))
    unix.bind_unix(path).close()
    with pytest.raises(ConnectionRefusedError):
        unix.connect_unix(path, 1.0)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_name_too_long_for_any_form_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="longer than 100 octets"):
        unix.bind_unix(tmp_path / ("n" * 120))


def test_a_left_over_socket_is_replaced_and_its_listener_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with unix.bind_unix(path) as old, unix.connect_unix(path, 1.0):
        with unix.bind_unix(path) as new, unix.connect_unix(path, 1.0):
            new.accept()[0].close()
        old.accept()[0].close()


def test_what_is_no_socket_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(FileExistsError, match="not a socket"):
        unix.bind_unix(path)
    assert path.read_text() == "data"


def test_listened_to_tells_the_living_from_the_left_over(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    assert not unix.listened_to(path)
    listener = unix.bind_unix(path)
    assert unix.listened_to(path)
    listener.close()
    assert path.exists()
    assert not unix.listened_to(path)


def test_a_full_accept_queue_is_somebody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> socket.socket:
        raise TimeoutError

    monkeypatch.setattr(unix, "connect_unix", full)
    assert unix.listened_to(tmp_path / "s.sock")


def test_a_private_folder_is_made_and_closed_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "run"
    unix.private_folder(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    unix.private_folder(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unix.private_folder(tmp_path / "run")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(PermissionError, match="owned by user"):
        unix.private_folder(tmp_path / "run")
