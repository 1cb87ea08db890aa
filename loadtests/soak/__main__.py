"""Play it and print the table: ``python -m loadtests.soak [--minutes 30] [--rate 150]``.

Exit codes: 0 every bar met, 1 one was not, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from loadtests.chaos.stage import Stage
from loadtests.chaos.verdict import Check, Verdict, table
from loadtests.processes import ToolError
from loadtests.soak.play import Pace, play


def judged(folder: Path, pace: Pace) -> Verdict:
    """Play, and say what came of it, or why nothing did."""
    try:
        with Stage(folder) as stage:
            found: list[Check] = play(stage, pace)
            return Verdict("soak", tuple(found))
    except (ToolError, OSError, ValueError) as error:
        return Verdict("soak", (), broken=" ".join(str(error).split())[:600])


def main(arguments: Sequence[str]) -> int:
    """Play once."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=150.0, help="arrivals of clients a second")
    parser.add_argument("--short", action="store_true", help="the form that the tests play")
    parser.add_argument("--keep", type=Path, help="keep everything in this empty folder")
    options = parser.parse_args(arguments)
    if options.minutes <= 0 or options.rate <= 0:
        parser.error("--minutes and --rate are above 0")
    pace = Pace.short() if options.short else Pace(options.minutes * 60, options.rate)
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
        verdict = judged(options.keep, pace)
    else:
        with tempfile.TemporaryDirectory(prefix="soak-") as folder:
            verdict = judged(Path(folder), pace)
    print(table([verdict]))
    return 0 if verdict.ok else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
