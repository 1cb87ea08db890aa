"""Another version of this gateway, to go to and back from: a copy that calls itself another."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.supervisor.plan import package_root
from gateway.version import VERSION
from loadtests.processes import ToolError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Newer than any that this one will ever be compared with.
OTHER = "99.0.0"

#: An upgrade on a machine with two busy cores takes some ten seconds.
MOST_SECONDS = 120

_VERSION = re.compile(r'^VERSION = "[^"]*"', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Version:
    """A version that can be run: its command, less the verb, and what it needs beside ``os``'s."""

    name: str
    root: Path
    command: tuple[str, ...]

    @property
    def env(self) -> Mapping[str, str]:
        """The environment that finds this version's package before any other."""
        others = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        paths = [str(self.root), *(each for each in others if each not in {"", package_root()})]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}

    def take_over(self, config: Path, *options: str, cwd: Path | None = None) -> dict[str, Any]:
        """Have the gateway of ``config`` become this version; return the verb's own answer.

        Raises ToolError where it did not become it.
        """
        done = subprocess.run(
            [*self.command, "upgrade", "--json", "--config", str(config), *options],
            env=self.env,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=MOST_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise ToolError(f"no upgrade to {self.name}: {done.returncode}: {done.stderr[-1000:]}")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


def other_version(folder: Path, version: str = OTHER) -> Version:
    """Copy the package to ``folder`` as ``version``, compiled modules included.

    ``take_over`` of it goes there, ``this_version().take_over`` back.
    """
    root = folder.resolve()
    left_out = shutil.ignore_patterns("__pycache__", "site")
    shutil.copytree(Path(package_root(), "gateway"), root / "gateway", ignore=left_out)
    place = root / "gateway" / "version.py"
    text, count = _VERSION.subn(f'VERSION = "{version}"', place.read_text(encoding="utf-8"))
    if count != 1:
        raise ValueError(f"{place}: there is no version to replace")
    place.write_text(text, encoding="utf-8")
    return Version(version, root, (sys.executable, "-P", "-m", "gateway"))


def this_version() -> Version:
    """Return the version that runs this very code."""
    return Version(VERSION, Path(package_root()), (sys.executable, "-P", "-m", "gateway"))
