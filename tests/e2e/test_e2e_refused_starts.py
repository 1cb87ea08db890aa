"""A start that is refused: one clear line, the documented exit code, and nothing half-started."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway.demo.ports import free_ports
from tests.support.certificates import Authority
from tests.support.gateway import TOKEN, GatewayProcess, config_for
from tests.support.processes import ROOT, listens, need
from tests.support.upstream import Upstream, always

pytestmark = pytest.mark.slow

USAGE, REFUSED = 2, 4


@dataclass(slots=True)
class Start:
    """What is started, and where; a case changes it."""

    folder: Path
    port: int
    admin: int
    listen: list[str] = field(default_factory=list)
    tls: str = ""
    extra: str = ""
    env: dict[str, str] = field(default_factory=dict)
    unset: str = ""
    #: Capabilities that it is started without, where root starts it.
    without: str = ""
    admin_path: str = ""
    state: Path | None = None

    @property
    def config(self) -> Path:
        return self.folder / "gateway.yaml"

    @property
    def run_dir(self) -> Path:
        return (self.state or self.folder / "gateway.db").parent / "run"

    def write(self) -> None:
        text = config_for(
            {"web": (["http://127.0.0.1:9"], [])},
            port=self.port,
            admin=self.admin,
            folder=self.folder,
            workers=2,
            extra=self.extra,
        )
        first = f'{{address: "127.0.0.1:{self.port}"{self.tls}}}'
        more = "".join(f', {{address: "{each}"}}' for each in self.listen)
        lines = text.splitlines()
        lines[1] = f"listen: [{first}{more}]"
        if self.admin_path:
            lines[6] = f"  address: unix:{self.admin_path}"
        if self.state is not None:
            lines[3] = f"state: {{path: {self.state}}}"
        self.config.write_text("\n".join(lines) + "\n")

    def refused(self) -> tuple[int, list[str]]:
        """Start it; return its exit code and the lines of standard error."""
        env = {**os.environ, "GATEWAY_TEST_TOKEN": TOKEN, "PYTHONPATH": str(ROOT), **self.env}
        env.pop(self.unset, None)
        before = [need("setpriv"), "--bounding-set", self.without] if self.without else []
        done = subprocess.run(
            [*before, sys.executable, "-m", "gateway", "run", "--config", str(self.config)],
            cwd=self.folder,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stdout == ""
        return done.returncode, done.stderr.splitlines()


@dataclass(frozen=True, slots=True)
class Case:
    """``prepare`` makes the fault; ``says`` are what the line has, ``{…}`` a field of the start."""

    name: str
    code: int
    says: tuple[str, ...]
    prepare: Callable[[Start], AbstractContextManager[object]]


@contextmanager
def _taken(start: Start, *, admin: bool = False, shared: bool = False) -> Iterator[None]:
    with socket.socket() as other:
        if shared:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", start.admin if admin else start.port))
        other.listen()
        yield


@contextmanager
def _second_taken(start: Start) -> Iterator[None]:
    """The first address is free and was bound when the second is found in use."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        start.listen = [f"127.0.0.1:{other.getsockname()[1]}"]
        yield


@contextmanager
def _unix_taken(start: Start) -> Iterator[None]:
    path = start.folder / "admin.sock"
    start.admin_path = str(path)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        yield
    assert path.exists(), "a stranger's socket was removed"


@contextmanager
def _newer_store(start: Start) -> Iterator[None]:
    path = start.folder / "gateway.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE later (what TEXT)")
        connection.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    yield
    assert path.read_bytes() == before
    assert [each.name for each in start.folder.glob("gateway.db*")] == ["gateway.db"]


@contextmanager
def _foreign_address(start: Start) -> Iterator[None]:
    start.listen = ["192.0.2.1:8080"]
    yield


@contextmanager
def _no_certificate(start: Start) -> Iterator[None]:
    _, key = Authority().make("a.example").write(start.folder)
    start.tls = _tls(start.folder / "none.pem", key)
    yield


@contextmanager
def _no_key(start: Start) -> Iterator[None]:
    certificate, _ = Authority().make("a.example").write(start.folder)
    start.tls = _tls(certificate, start.folder / "none.key")
    yield


@contextmanager
def _unwritable(start: Start) -> Iterator[None]:
    """A state folder that belongs to somebody else."""
    _only_root()
    start.without = "-dac_override,-dac_read_search,-fowner"
    start.state = start.folder / "state" / "gateway.db"
    start.state.parent.mkdir(mode=0o755)
    os.chown(start.state.parent, 65534, 65534)
    yield


@contextmanager
def _file_in_the_way(start: Start) -> Iterator[None]:
    start.state = start.folder / "file" / "gateway.db"
    (start.folder / "file").write_text("")
    yield


@contextmanager
def _low_port(start: Start) -> Iterator[None]:
    _only_root()
    start.without = "-net_bind_service"
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 81:
        pytest.skip("this machine lets everybody bind every port")
    start.listen = ["127.0.0.1:81"]
    yield


@contextmanager
def _not_yaml(start: Start) -> Iterator[None]:
    start.extra = "services: [\n"
    yield


@contextmanager
def _unknown_key(start: Start) -> Iterator[None]:
    start.extra = "wrokers: 3\n"
    yield


@contextmanager
def _no_file(start: Start) -> Iterator[None]:
    start.config.unlink()
    yield


@contextmanager
def _no_token(start: Start) -> Iterator[None]:
    start.unset = "GATEWAY_TEST_TOKEN"
    yield


@contextmanager
def _library_missing(start: Start) -> Iterator[None]:
    """A library that only workers need cannot be imported: none of them would ever serve."""
    shadow = start.folder / "shadow"
    shadow.mkdir()
    (shadow / "orjson.py").write_text("raise ImportError('built for another Python')\n")
    start.env["PYTHONPATH"] = os.pathsep.join((str(shadow), str(ROOT)))
    yield


@contextmanager
def _running(start: Start) -> Iterator[None]:
    """Another gateway on the same state, on other addresses."""
    port, admin = free_ports(2)
    with Upstream(always(b"x")) as upstream:
        text = config_for(
            {"web": ([upstream.url], [])}, port=port, admin=admin, folder=start.folder
        )
        folder = start.folder / "other"
        folder.mkdir()
        with GatewayProcess(text, folder, port=port, admin=admin) as gateway:
            yield
            assert gateway.is_ready()
            assert listens(port)


def _only_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root has rights that can be taken away")


def _tls(certificate: Path, key: Path) -> str:
    return f", tls: {{certificates: [{{certificate: {certificate}, key: {key}}}]}}"


CASES = (
    Case("address", REFUSED, ("127.0.0.1:{port}: in use",), _taken),
    Case(
        "address shared",
        REFUSED,
        ("127.0.0.1:{port}: in use",),
        lambda start: _taken(start, shared=True),
    ),
    Case("admin", REFUSED, ("127.0.0.1:{admin}: in use",), lambda start: _taken(start, admin=True)),
    Case("second address", REFUSED, ("in use by another process",), _second_taken),
    Case("unix", REFUSED, ("admin.sock: in use",), _unix_taken),
    Case("foreign address", REFUSED, ("192.0.2.1:8080: no interface",), _foreign_address),
    Case("low port", REFUSED, ("127.0.0.1:81: not permitted",), _low_port),
    Case("same state", REFUSED, ("another gateway (process", "{folder}/run"), _running),
    Case("unwritable", REFUSED, ("state folder", "{folder}/state"), _unwritable),
    Case("file in the way", REFUSED, ("state folder", "{folder}/file"), _file_in_the_way),
    Case(
        "newer store",
        REFUSED,
        ("state store {folder}/gateway.db", "schema is version 99", "written by a newer one"),
        _newer_store,
    ),
    Case("library", REFUSED, ("orjson", "built for another Python"), _library_missing),
    Case(
        "certificate",
        USAGE,
        ("tls.certificates[0].certificate: ", "cannot be read"),
        _no_certificate,
    ),
    Case("key", USAGE, ("tls.certificates[0].key: ", "cannot be read"), _no_key),
    Case("not YAML", USAGE, ("gateway.yaml",), _not_yaml),
    Case("unknown key", USAGE, ("wrokers",), _unknown_key),
    Case("no file", USAGE, ("gateway.yaml",), _no_file),
    Case("no token", USAGE, ("admin.tokens[0].token_env: ", "is not set"), _no_token),
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users may look into (pytest's own are private)."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_refused_start_says_why_and_leaves_nothing(case: Case, folder: Path) -> None:
    port, admin = free_ports(2)
    start = Start(folder, port, admin)
    with ExitStack() as stack:
        if case.prepare in {_no_file}:
            start.write()
            stack.enter_context(case.prepare(start))
        else:
            stack.enter_context(case.prepare(start))
            start.write()
        taken = {each for each in (port, admin) if listens(each)}
        sockets = _sockets(folder)
        code, lines = start.refused()
        assert code == case.code, lines
        assert not any("Traceback" in line for line in lines), lines
        values = {"port": port, "admin": admin, "folder": folder}
        for text in case.says:
            assert text.format(**values) in " ".join(lines), lines
        assert len(lines) == 1, lines
        assert {each for each in (port, admin) if listens(each)} == taken
        assert _sockets(folder) == sockets
        if case.prepare is not _running:
            assert _processes(folder) == []


def _sockets(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_socket())


def _processes(folder: Path) -> list[int]:
    """Return processes whose environment names the folder: a supervisor's children."""
    found = []
    for each in Path("/proc").iterdir():
        if each.name.isdecimal() and int(each.name) != os.getpid():
            with contextlib.suppress(OSError):
                if os.fsencode(folder) in (each / "environ").read_bytes():
                    found.append(int(each.name))
    return found
