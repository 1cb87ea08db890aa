"""The demo's ports and configuration."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import yaml

from gateway.config.load import read_file
from gateway.demo.layout import (
    REPLICAS,
    configuration,
    free_layout,
    taken_ports,
    usual_layout,
)
from gateway.demo.ports import HOST

DEMO_FILE = Path(__file__).parents[2] / "config" / "demo.yaml"


def test_the_usual_layout_is_what_the_example_file_has() -> None:
    example = yaml.safe_load(DEMO_FILE.read_text())
    ours = configuration(usual_layout(), Path("var/demo"))
    same = ("version", "listen", "workers", "state", "admin", "routes", "internal_callers")
    for key in (*same, "releases"):
        assert ours[key] == example[key], key
    assert "X-User-Id" in repr(ours["traffic"])
    assert example["traffic"]["cohort"]["header"] == "X-User-Id"
    services = ours["services"]
    assert isinstance(services, dict)
    assert services.keys() == example["services"].keys()
    for name, service in services.items():
        for color in ("blue", "green"):
            assert service[color] == example["services"][name][color]
        assert service["health"] == example["services"][name]["health"]
        assert service.get("depends_on") == example["services"][name].get("depends_on")
        assert example["services"][name]["fallback"] == _relative(service["fallback"])


def _relative(fallbacks: list[dict[str, dict[str, object]]]) -> object:
    """Name the files as the example does, which is read from the repository's root."""
    root = DEMO_FILE.parents[1]
    for item in fallbacks:
        for keys in item.values():
            if "file" in keys:
                keys["file"] = str(Path(str(keys["file"])).relative_to(root))
    return fallbacks


def test_the_configuration_is_right(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(configuration(free_layout(), tmp_path)))
    loaded = read_file(path, os.environ, read_secrets=False, read_pages=True)
    assert loaded.warnings == ()
    assert len(loaded.config.pages) == 3


def test_free_ports_differ_and_are_free() -> None:
    layout = free_layout()
    ports = [port for port, _ in layout.ports()]
    assert len(set(ports)) == len(ports) == 2 + 2 * sum(REPLICAS.values())
    assert taken_ports(layout) == []


def test_a_taken_port_is_named_with_what_it_is_for() -> None:
    layout = free_layout()
    placed = layout.processes[3]
    with socket.socket() as other:
        # The other one allows sharing: it must be seen all the same.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind((HOST, placed.port))
        other.listen()
        assert taken_ports(layout) == [(placed.port, placed.identity.name)]
