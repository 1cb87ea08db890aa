"""Fuzz the targets by coverage: ``python -m tests.fuzz.run [TARGET ...] --seconds 60``.

Needs atheris (``pip install atheris``; Linux, CPython). Each target runs in a process of its own,
as libFuzzer wants it, on the hot modules as plain Python: only that form says what it covers. What
a run finds lies in ``.make/fuzz/TARGET``; ``--keep`` writes a sample of it to the corpus that the
tests replay, in both forms.
"""

from __future__ import annotations

import argparse
import gc
import inspect
import os
import subprocess
import sys
from pathlib import Path

from gateway.hot import HOT_MODULES

ROOT = Path(__file__).parents[2]
FOUND = ROOT / ".make" / "fuzz"


def main() -> int:
    """Run what was asked for; 1 where a target broke its promise, 2 without atheris."""
    if sys.argv[1:2] == ["--one"]:
        return _one(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=int, default=60, help="of each target")
    parser.add_argument("--keep", action="store_true", help="write the tests' corpus anew")
    asked = parser.parse_args()
    try:
        import atheris  # noqa: F401 - whether it is there
    except ImportError:
        print("atheris is not installed: pip install atheris", file=sys.stderr)
        return 2
    from tests.fuzz.targets import TARGETS

    unknown = set(asked.targets) - set(TARGETS)
    if unknown:
        parser.error(
            f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}"
        )
    failed = [name for name in asked.targets or TARGETS if not _fuzzed(name, asked.seconds)]
    if asked.keep:
        for name in asked.targets or TARGETS:
            print(f"{name}: {_kept(name)} inputs kept")
    if failed:
        print(f"broken: {', '.join(failed)}; the inputs are {FOUND}/*/crash-*")
    return 1 if failed else 0


def _command(name: str, *flags: str) -> bool:
    command = [sys.executable, "-m", "tests.fuzz.run", "--one", name, *flags]
    env = {**os.environ, "GATEWAY_NO_COMPILED": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=env, check=False).returncode == 0


def _fuzzed(name: str, seconds: int) -> bool:
    from tests.fuzz.corpus import seeds

    folder = FOUND / name
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    for at, data in enumerate(seeds(name)):
        (folder / "corpus" / f"seed-{at:04d}").write_bytes(data)
    print(f"--- {name}: {seconds} s", flush=True)
    return _command(
        name,
        f"-max_total_time={seconds}",
        "-max_len=1000",
        "-timeout=10",
        "-print_final_stats=1",
        "-verbosity=0",
        f"-artifact_prefix={folder}/",
        f"{folder}/corpus",
    )


def _kept(name: str) -> int:
    from tests.fuzz.corpus import keep, kept

    # libFuzzer writes down what covers something new; seeds keep their own names.
    found = [each for each in (FOUND / name / "corpus").iterdir() if "seed-" not in each.name]
    broken = [each for each in (FOUND / name).iterdir() if each.is_file()]
    return keep(name, [each.read_bytes() for each in (*found, *broken)] or kept(name))


def _one(name: str, flags: list[str]) -> int:
    """Hand this process over to libFuzzer."""
    import atheris

    with atheris.instrument_imports(include=["gateway"]):
        from tests.fuzz.targets import TARGETS
    # The package's own finder imports the hot modules past atheris': they are marked here.
    for module in HOT_MODULES:
        for each in list(vars(sys.modules[module]).values()) if module in sys.modules else ():
            if getattr(each, "__module__", None) == module:
                for part in (each, *vars(each).values()) if isinstance(each, type) else (each,):
                    if inspect.isfunction(part):
                        atheris.instrument_func(part)
    gc.freeze()  # what is here stays; a collection after each input is then cheap
    atheris.Setup([sys.argv[0], *flags], TARGETS[name])
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
