"""Ports for the demo and for tests: free, different, and not where connections get theirs."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from gateway.demo import ports
from gateway.demo.ports import HOST, free_ports


def test_they_come_from_below_the_range_of_outgoing_connections() -> None:
    found = free_ports(20)
    assert len(set(found)) == 20
    assert all(ports.LOWEST <= port <= ports.highest() for port in found)


def test_a_taken_one_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "LOWEST", ports.highest() - 60)
    with socket.create_server((HOST, free_ports(1)[0])) as taken:
        for _ in range(40):
            assert taken.getsockname()[1] not in free_ports(30)


def test_too_few_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "LOWEST", ports.highest() - 5)
    held = [socket.create_server((HOST, port)) for port in free_ports(3)]
    try:
        with pytest.raises(OSError, match="free ports"):
            free_ports(4)
    finally:
        for each in held:
            each.close()


def test_a_range_that_cannot_be_read_is_taken_for_the_usual(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ports, "_RANGE_FILE", tmp_path / "none")
    assert ports.highest() == 32_767
    (tmp_path / "odd").write_text("odd")
    monkeypatch.setattr(ports, "_RANGE_FILE", tmp_path / "odd")
    assert ports.highest() == 32_767


def test_where_there_is_no_room_below_the_system_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "highest", lambda: ports.LOWEST)
    assert len(set(free_ports(3))) == 3
