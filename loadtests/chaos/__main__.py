"""Play scenarios and print the table: ``python -m loadtests.chaos [--short] [NAME ...]``.

Exit codes: 0 every bar met, 1 one was not, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gateway.demo.children import DemoError
from loadtests.chaos.scenarios import SCENARIOS
from loadtests.chaos.stage import FULL, SHORT, Lacking, Pace, Stage
from loadtests.chaos.verdict import Check, Verdict, table
from loadtests.processes import ToolError
from loadtests.releases.platform import Platform
from loadtests.releases.scenarios import RELEASES, WHOLE_ONLY


def names() -> tuple[str, ...]:
    """Return every scenario's name, in the order of the table."""
    return (*SCENARIOS, *RELEASES)


def play(name: str, pace: Pace, folder: Path) -> Verdict:
    """Play one scenario in an empty folder."""

    def played() -> list[Check]:
        with Stage(folder) as stage:
            if name in SCENARIOS:
                return SCENARIOS[name](stage, pace)
            return RELEASES[name](Platform.on(stage), pace)

    return judged(name, played)


def judged(name: str, played: Callable[[], list[Check]]) -> Verdict:
    """Play, and say what came of it, or why nothing did."""
    try:
        return Verdict(name, tuple(played()))
    except Lacking as error:
        return Verdict(name, (), lacking=str(error))
    except (ToolError, DemoError, OSError) as error:
        return Verdict(name, (), broken=" ".join(str(error).split())[:600])


def main(arguments: Sequence[str]) -> int:
    """Play what is named, all by default, one after the other."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--short", action="store_true", help="the form that the tests play")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names()))
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in names()]:
        parser.error(f"no scenario {', '.join(unknown)}; there are {', '.join(names())}")
    skipped = WHOLE_ONLY if options.short else frozenset()
    verdicts = []
    for name in options.names or [each for each in names() if each not in skipped]:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            verdict = play(name, SHORT if options.short else FULL, Path(folder))
        verdicts.append(verdict)
        took = time.monotonic() - began
        said = "not played" if verdict.lacking else "ok" if verdict.ok else "FAILED"
        print(f"{name}: {said} ({took:.0f} s)", file=sys.stderr)
    print(table(verdicts))
    return 0 if all(verdict.ok for verdict in verdicts) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
