"""The commands of docs/authentication.md, "Try it", do what their comments say."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from gateway.demo.ports import free_ports
from tests.support.processes import ROOT, alive, children_of, wait_until

PAGE = ROOT / "docs" / "authentication.md"
CONFIG = "config/authentication.yaml"


def commands() -> list[str]:
    section = PAGE.read_text().partition("## Try it\n")[2].partition("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


def family(pid: int) -> list[int]:
    return [pid, *(each for child in children_of(pid) for each in family(child))]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_commands_do_what_the_page_says(tmp_path: Path) -> None:
    backend, public = free_ports(2)

    def here(text: str) -> str:
        text = re.sub(r"(127\.0\.0\.1:|http\.server )8000\b", rf"\g<1>{backend}", text)
        return text.replace("127.0.0.1:8080", f"127.0.0.1:{public}")

    (tmp_path / "config").mkdir()
    (tmp_path / CONFIG).write_text(here((ROOT / CONFIG).read_text()))
    (tmp_path / "bin").mkdir()
    for name, module in (("gateway", " -m gateway"), ("python", "")):
        shim = tmp_path / "bin" / name
        shim.write_text(f'#!/bin/sh\nexec "{sys.executable}"{module} "$@"\n')
        shim.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    prepare, begin, ask = map(here, commands())

    def shell(text: str) -> str:
        done = subprocess.run(
            ["bash", "-euc", text],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    shell(prepare)
    with (tmp_path / "said").open("wb") as said:
        running = subprocess.Popen(
            ["bash", "-uc", f"{begin}\nwait"],
            cwd=tmp_path,
            env=environment,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    try:

        def ready() -> bool:
            try:
                return httpx.get(f"http://127.0.0.1:{public}/").status_code == 200
            except httpx.HTTPError:
                return False

        wait_until(ready, lambda: f"it serves:\n{(tmp_path / 'said').read_text()}")
        wanted = [int(code) for code in re.findall(r"  # (\d{3})$", ask, re.MULTILINE)]
        assert len(wanted) == ask.count("\nask ")
        assert [int(code) for code in shell(ask).split()] == wanted
    finally:
        started = family(running.pid)
        for which in (signal.SIGTERM, signal.SIGKILL):
            for pid in started:
                if alive(pid):
                    os.kill(pid, which)
            if which is signal.SIGTERM:
                wait_until(lambda: running.poll() is not None, "the shell is gone")
                wait_until(lambda: not any(map(alive, started[1:])), "all are gone")
