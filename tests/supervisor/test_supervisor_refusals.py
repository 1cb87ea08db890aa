from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from gateway.channel.unix import bind_unix
from gateway.supervisor import addresses
from gateway.supervisor.addresses import AddressError
from gateway.supervisor.lock import HeldError, OwnerLock
from tests.supervisor.supervised import Gateway, alive


def refused(gateway: Gateway, process: subprocess.Popen[bytes]) -> str:
    assert process.wait(15) == 4
    assert gateway.events("start") == []
    said = gateway.said()
    assert "Traceback" not in said
    return said


def test_a_second_gateway_on_the_same_state_is_refused(gateway: Gateway) -> None:
    first = gateway.serving()
    second = gateway.start(listen=("127.0.0.1:0",))
    assert second.wait(15) == 4
    expected = f"another gateway (process {first.pid}) runs on this state: {gateway.run_dir}"
    assert expected in gateway.said()
    assert gateway.tell("who")["slot"] in {0, 1}


def test_an_address_in_use_is_refused(gateway: Gateway) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = refused(gateway, gateway.start(listen=(f"127.0.0.1:{port}",)))
    assert f"127.0.0.1:{port}: in use by another process" in said


def test_a_listener_that_would_share_is_refused_too(gateway: Gateway) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = refused(gateway, gateway.start(listen=(f"127.0.0.1:{port}",)))
    assert "in use by another process" in said


def test_an_admin_address_in_use_is_refused(gateway: Gateway) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = refused(gateway, gateway.start(admin=f"127.0.0.1:{port}"))
    assert f"127.0.0.1:{port}: in use" in said


def test_a_unix_address_in_use_is_refused_and_left_alone(gateway: Gateway, tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with bind_unix(path):
        said = refused(gateway, gateway.start(admin=f"unix:{path}"))
        assert f"unix:{path}: in use" in said
        assert path.exists()


def test_a_file_in_the_place_of_a_socket_is_left_alone(gateway: Gateway, tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    path.write_text("precious")
    assert "not a socket" in refused(gateway, gateway.start(admin=f"unix:{path}"))
    assert path.read_text() == "precious"


def test_a_run_folder_that_cannot_be_made_is_told(gateway: Gateway, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    said = refused(gateway, gateway.start(run_dir=str(blocked / "run")))
    assert str(blocked) in said


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8080", "expected host:port"),
        (":8080", "expected host:port"),
        ("127.0.0.1:http", "expected host:port"),
        ("127.0.0.1:70000", "expected host:port"),
        ("no such host:80", "the host is unknown"),
    ],
)
def test_what_is_no_address_is_told(text: str, expected: str) -> None:
    with pytest.raises(AddressError, match=expected):
        addresses.parse(text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("localhost:80", "127.0.0.1:80"),
        ("[::1]:80", "[::1]:80"),
        ("[0:0:0:0:0:0:0:1]:80", "[::1]:80"),
        ("unix:/a/b.sock", "unix:/a/b.sock"),
    ],
)
def test_one_address_has_one_canonical_text(text: str, canonical: str) -> None:
    assert addresses.parse(text).text == canonical


def test_an_address_of_another_machine_is_told_in_words() -> None:
    with pytest.raises(AddressError, match="no interface of this machine"):
        addresses.listen(addresses.parse("192.0.2.1:0"), beside_others=True)


def test_a_port_that_needs_rights_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    class Forbidden(socket.socket):
        bind = forbidden

    monkeypatch.setattr(socket, "socket", Forbidden)
    with pytest.raises(AddressError, match="not permitted"):
        addresses.listen(addresses.parse("127.0.0.1:80"), beside_others=True)


def test_what_is_no_listening_socket_is_not_adopted(tmp_path: Path) -> None:
    here, there = socket.socketpair()
    assert addresses.adopt(here.detach()) is None
    there.close()
    file = os.open(tmp_path, os.O_RDONLY)
    assert addresses.adopt(file) is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file)


def test_the_lock_is_held_by_one_and_freed_by_its_end(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = OwnerLock(path)
    with pytest.raises(HeldError, match=f"process {os.getpid()}"):
        OwnerLock(path)
    lock.close()
    OwnerLock(path).close()
    assert path.read_text() == f"{os.getpid()}\n"


def test_the_lock_ends_with_its_holder_though_children_live(gateway: Gateway) -> None:
    supervisor = gateway.serving(workers=1)
    worker = gateway.worker_of(0)
    supervisor.send_signal(signal.SIGKILL)
    supervisor.wait()
    assert alive(worker)
    OwnerLock(gateway.run_dir / "lock").close()
