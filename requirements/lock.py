"""Write requirements/lock.txt: one version of everything that the project installs.

``make lock`` runs this. With each supported Python, in a fresh environment, pip resolves the
project with its test and lint extras and says what it would install (``--report``); names and
versions are kept as pip constraints, marked where the Pythons need different ones. See
docs/adr/0002-one-constraints-file.md for why constraints and not hashes.

Standard library only.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements" / "lock.txt"
OWN = "release-gateway"
PYTHONS = ("3.11", "3.12", "3.13")

HEADER = """\
# One version of everything that is installed, as pip constraints (pip install -c).
# Written by `make lock`; do not edit. What a platform does not need is not installed there.
"""


def environment(version: str) -> Path:
    """Make a fresh environment with that Python and a new pip; return its interpreter."""
    folder = ROOT / ".make" / f"lock-{version}"
    subprocess.run([f"python{version}", "-m", "venv", "--clear", str(folder)], check=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--upgrade", "pip"], check=True)
    return python


def resolve(python: Path, wanted: list[str]) -> dict[str, str]:
    """Ask pip what it would install for ``wanted``: normalised names to versions."""
    command = [str(python), "-m", "pip", "install", "--quiet", "--dry-run"]
    command += ["--ignore-installed", "--report", "-", *wanted]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=ROOT)
    chosen = {}
    for entry in json.loads(done.stdout)["install"]:
        name = entry["metadata"]["name"].lower().replace("_", "-").replace(".", "-")
        # A local version (1.0+cpu) exists on one machine's own index only.
        chosen[name] = entry["metadata"]["version"].partition("+")[0]
    chosen.pop(OWN, None)
    return chosen


def merge(by_python: dict[str, dict[str, str]]) -> list[str]:
    """Return the constraints: one line where all agree, else one per Python."""
    lines = []
    for name in sorted({name for chosen in by_python.values() for name in chosen}):
        versions = {chosen[name] for chosen in by_python.values() if name in chosen}
        if len(versions) == 1:
            lines.append(f"{name}=={versions.pop()}")
            continue
        lines += [
            f'{name}=={chosen[name]} ; python_version == "{python}"'
            for python, chosen in by_python.items()
            if name in chosen
        ]
    return lines


def main() -> int:
    """Resolve with every Python and write the file; say what changed."""
    old = LOCK.read_text().splitlines() if LOCK.is_file() else []
    wanted = [".[test,lint]", "setuptools>=70.1"]
    by_python = {version: resolve(environment(version), wanted) for version in PYTHONS}
    lines = merge(by_python)
    LOCK.write_text(HEADER + "\n".join(lines) + "\n")
    for line in lines:
        if line not in old:
            print(f"now {line}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
