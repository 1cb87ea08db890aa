"""One source, two forms: compiled and plain give the same, and stale binaries are ignored."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from gateway.hot import HOT_MODULES, compiled_state, current_extension
from tests.support.gateway import GatewayProcess
from tests.support.processes import ROOT
from tests.support.upstream import Upstream, always

PLAIN = {**os.environ, "GATEWAY_NO_COMPILED": "1"}
AS_INSTALLED = {key: value for key, value in os.environ.items() if key != "GATEWAY_NO_COMPILED"}


def python(
    *arguments: str, env: dict[str, str], cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env=env,
        cwd=cwd,
        timeout=900,
        check=False,
    )


def source_of(module: str, root: Path = ROOT) -> Path:
    return root.joinpath(*module.split(".")).with_suffix(".py")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_hot_rooms_pass_as_plain_python() -> None:
    if compiled_state() == "plain Python":
        pytest.skip("nothing is compiled here: the run itself is plain Python")
    rooms = [f"tests/{room}" for room in ("wire", "policy", "proxy")]
    rooms = [room for room in rooms if list((ROOT / room).glob("test_*.py"))]
    assert rooms
    options = ["-q", "-p", "no:cacheprovider", "-m", "not slow and not timed", "-n", "2"]
    done = python("-m", "pytest", *options, *rooms, env=PLAIN)
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.parametrize("env", [PLAIN, AS_INSTALLED], ids=["plain", "as installed"])
def test_version_says_which_form_runs(env: dict[str, str]) -> None:
    done = python("-m", "gateway", "--version", env=env)
    assert done.returncode == 0, done.stderr
    if env is PLAIN:
        assert "(plain Python, Python 3." in done.stdout
    else:
        current = sum(current_extension(source_of(module)) is not None for module in HOT_MODULES)
        everything = {0: "plain Python", len(HOT_MODULES): "compiled"}
        wanted = everything.get(current, f"{current} of {len(HOT_MODULES)} modules compiled")
        assert f"({wanted}, " in done.stdout


@pytest.mark.parametrize("plain", ["1", "0"], ids=["plain", "as installed"])
def test_a_request_goes_through_in_either_form(tmp_path: Path, plain: str) -> None:
    with (
        Upstream(always(b"blue")) as blue,
        Upstream(always(b"green")) as green,
        GatewayProcess.for_services(
            tmp_path, {"web": ([blue.url], [green.url])}, env={"GATEWAY_NO_COMPILED": plain}
        ) as gateway,
    ):
        assert httpx.get(gateway.url, trust_env=False).text == "blue"
        gateway.set_weight(100)
        answer = httpx.post(gateway.url, content=b"x" * 100_000, trust_env=False)
        assert (answer.status_code, answer.text) == (200, "green")


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the package with its binaries."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "gateway", tmp_path / "gateway", ignore=ignore)
    return tmp_path


def loaded_from(module: str, root: Path) -> str:
    code = f"import {module} as m; print(m.__file__)"
    env = {**AS_INSTALLED, "PYTHONPATH": str(root)}
    done = python("-c", code, env=env, cwd=root)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_binary_older_than_its_source_is_ignored(copied: Path) -> None:
    module = next((m for m in HOT_MODULES if current_extension(source_of(m)) is not None), None)
    if module is None:
        pytest.skip("nothing is compiled here (no C compiler, or GATEWAY_NO_COMPILED)")
    assert loaded_from(module, copied).endswith(".so")
    source = source_of(module, copied)
    source.write_text(source.read_text() + "\nEDITED = True\n")
    assert loaded_from(module, copied) == str(source)


def imported_by(code: str) -> set[str]:
    done = python("-c", f"{code}\nimport sys; print(' '.join(sys.modules))", env=AS_INSTALLED)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    loaded = imported_by("import gateway.cli")
    assert not loaded & {"aiohttp", "pydantic", "uvloop", "asyncio", "yaml", "Cython"}


def test_the_supervisor_loads_the_standard_library_only() -> None:
    loaded = imported_by("import gateway.supervisor.supervisor")
    ours = {"gateway", "__main__"}
    # site's own start-up hooks (editable installs, coverage) are not the supervisor's doing.
    at_rest = imported_by("pass")
    assert loaded - at_rest - ours <= set(sys.stdlib_module_names)


def test_a_compiled_worker_never_loads_cython() -> None:
    if compiled_state() != "compiled":
        pytest.skip("not everything is compiled here")
    assert "Cython" not in imported_by("import gateway.wire.head, gateway.wire.body")


def test_starting_costs_little_processor_time() -> None:
    # Processor time, not the clock's: neighbours on the machine do not move it. 0.2 s is usual.
    before = os.times()
    assert python("-m", "gateway", "--version", env=AS_INSTALLED).returncode == 0
    after = os.times()
    spent = after.children_user + after.children_system
    assert spent - before.children_user - before.children_system < 1.5
