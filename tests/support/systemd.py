"""A real systemd as process 1 of its own namespaces, with the gateway installed under /opt.

Units are read from ``/etc/systemd/system`` alone, where those of ``config/systemd`` are as they
are, beside drop-ins for what a test has to have otherwise (ports, a short watchdog, a log file).
Process numbers, mounts, control groups, ``/run``, ``/etc``, ``/var`` and ``/tmp`` are its own; the
network is the machine's, so that clients of a test reach it.
"""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

import pytest

from tests.support.processes import ROOT, Process, children_of, need, start, wait_until

SYSTEMD: Final = Path("/lib/systemd/systemd")
UNITS: Final = ROOT / "config" / "systemd"
BOOT: Final = Path(__file__).with_name("boot_systemd.sh")

#: What the two units refer to, of a system that has nothing else.
TARGETS: Final = ("rig", "sysinit", "basic", "shutdown", "sockets", "network-online", "multi-user")
USER: Final = ("setpriv", "--reuid=gateway", "--regid=gateway", "--clear-groups")


def need_systemd() -> None:
    """Skip the test, saying why, where systemd cannot be run in namespaces of its own."""
    if sys.platform != "linux":
        pytest.skip("systemd runs on Linux only")
    if os.geteuid() != 0:
        pytest.skip("systemd as process 1 needs root")
    if not SYSTEMD.exists():
        pytest.skip("systemd is not installed")
    for program in ("unshare", "nsenter", "setpriv", "systemctl", "systemd-analyze"):
        need(program)
    folder = ROOT / "tests"
    tried = subprocess.run(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--cgroup", "--ipc", "--uts",
         "sh", "-c", f"mount -t tmpfs tmpfs {folder} && mount -t cgroup2 cgroup2 {folder}"],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    if tried.returncode:
        pytest.skip(f"no namespaces of its own for systemd: {tried.stderr.strip()}")


class Machine:
    """One booted systemd; use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "etc-gateway"
        self.opt = folder / "opt"
        self.units = folder / "units"
        for each in (self.config, self.opt, self.opt / "python", self.opt / "site", self.units):
            each.mkdir()
        (self.opt / "gateway").mkdir()
        for target in TARGETS:
            (self.units / f"{target}.target").write_text(
                f"[Unit]\nDescription={target}\nDefaultDependencies=no\n"
            )
        for unit in UNITS.iterdir():
            shutil.copy(unit, self.units)
        self._process: Process | None = None
        self._pid = 0

    def drop_in(self, unit: str, text: str) -> None:
        """Change a unit, before the boot or until ``systemctl daemon-reload``."""
        if self._pid:
            folder = self.inside(f"/etc/systemd/system/{unit}.d")
        else:
            folder = self.units / f"{unit}.d"
        folder.mkdir(exist_ok=True)
        (folder / "rig.conf").write_text(text)

    def install(self, name: str, package_root: Path = ROOT) -> None:
        """Make ``/opt/NAME`` an environment that has the package of that folder."""
        here = self.opt / name
        library = here / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
        library.mkdir(parents=True)
        (here / "bin").mkdir()
        python = f"python{sysconfig.get_python_version()}"
        (here / "bin" / "python").symlink_to(f"/opt/python/bin/{python}")
        (here / "pyvenv.cfg").write_text("home = /opt/python/bin\n")
        (library / "rig.pth").write_text("/opt/site\n")
        left_out = shutil.ignore_patterns("__pycache__", "demo")
        shutil.copytree(package_root / "gateway", library / "gateway", ignore=left_out)
        script = here / "bin" / "gateway"
        script.write_text(f"#!/opt/{name}/bin/python\nfrom gateway.cli import main\nmain()\n")
        script.chmod(0o755)

    def current(self, name: str) -> None:
        """Point ``/opt/gateway/current`` at an environment."""
        link = self.opt / "gateway" / "current"
        link.unlink(missing_ok=True)
        link.symlink_to(f"/opt/{name}")

    def __enter__(self) -> Self:
        self.folder.chmod(0o755)
        self._process = process = start(
            "boot",
            ["unshare", "--mount", "--propagation", "private", BOOT, self.folder],
            self.folder,
            {"PREFIX": sys.base_prefix, "SITE": site.getsitepackages()[0]},
        )

        def booted() -> bool | None:
            if process.popen.poll() is not None:
                pytest.fail(f"systemd did not boot:\n{process.said()}")
            self._pid = self._find()
            return bool(self._pid) and self.systemctl("is-active", "rig.target").returncode == 0

        try:
            wait_until(booted, lambda: f"systemd has booted:\n{process.said()}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        assert process is not None
        if self._pid:
            # Process 1 takes everything in its namespace with it; the script tidies up.
            os.kill(self._pid, 9)
            process.popen.wait(20)
        else:
            process.stop()

    def _find(self) -> int:
        """Return process 1 as the machine numbers it, once it is systemd; 0 before."""
        assert self._process is not None
        for shell in children_of(self._process.pid):
            for pid in children_of(shell):
                if Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                    return pid
        return 0

    def inside(self, path: str) -> Path:
        """Return how a path of its own is reached from outside."""
        return Path(f"/proc/{self._pid}/root{path}")

    def run(self, *command: str, timeout: float = 100.0) -> subprocess.CompletedProcess[str]:
        """Run a command in its namespaces, as root."""
        enter = ["nsenter", f"--target={self._pid}", "--mount", "--pid", "--uts", "--ipc"]
        return subprocess.run(
            [*enter, f"--wd={self.inside('/')}", "--", *command],
            capture_output=True, text=True, timeout=timeout, check=False,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        )  # fmt: skip

    def systemctl(self, *words: str, timeout: float = 100.0) -> subprocess.CompletedProcess[str]:
        """Run systemctl there."""
        return self.run("systemctl", *words, timeout=timeout)

    def done(self, *words: str) -> None:
        """Run systemctl there, which is to succeed."""
        answer = self.systemctl(*words)
        assert answer.returncode == 0, f"{words}: {answer.stderr}\n{self.said()}"

    def show(self, *names: str, unit: str = "gateway.service") -> list[str]:
        """Return properties of a unit, in order."""
        text = self.systemctl("show", unit, f"--property={','.join(names)}").stdout
        found = dict(line.partition("=")[::2] for line in text.splitlines())
        return [found[name] for name in names]

    def said(self) -> str:
        """Return what systemd and the gateway have written."""
        parts: Sequence[Path] = (self.inside("/run/console"), self.folder / "gateway.log")
        return "\n".join(part.read_text(errors="replace") for part in parts if part.exists())
