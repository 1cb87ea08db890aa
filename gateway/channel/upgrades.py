"""What has become of upgrades: the supervisor writes it into the run folder, control reads it.

Standard library only. Control is replaced in the middle of an upgrade, so that nothing is told to a
process: the file has the last steps, and whoever reads it knows which of them it has read before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from pathlib import Path

FILE: Final = "upgrades.json"
#: Steps that are kept, and characters of what each of them says.
KEPT: Final = 40
MOST_SAID: Final = 500
#: Octets of the file at most.
_MOST: Final = 1 << 20

ASKED: Final = "asked"
TRIED: Final = "tried"
DONE: Final = "done"
REFUSED: Final = "refused"
ROLLED_BACK: Final = "rolled_back"
FAILED: Final = "failed"
#: How an upgrade ends: the ``result`` of its metric.
RESULTS: Final = (DONE, REFUSED, ROLLED_BACK, FAILED)
STEPS: Final = frozenset({ASKED, TRIED, *RESULTS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of one upgrade. ``at``: the epoch's seconds; ``seconds`` since it was asked for.

    ``uid`` is the local user who asked for it, -1 where nobody knows (a signal by hand); ``user``
    is what that one's name is, ``""`` for none. ``way_back``: False where there is none.
    """

    id: str
    step: str
    at: float
    old: str = ""
    new: str = ""
    uid: int = -1
    user: str = ""
    text: str = ""
    seconds: float = 0.0
    way_back: bool = True

    @property
    def over(self) -> bool:
        """Whether the upgrade ends with it."""
        return self.step in RESULTS

    @property
    def by(self) -> str:
        """Who asked for it, in words."""
        if self.uid < 0:
            return "SIGUSR2"
        return f"uid {self.uid} ({self.user})" if self.user else f"uid {self.uid}"


@dataclass(slots=True)
class Journal:
    """The last steps, oldest first, and how many upgrades ended how since the gateway began."""

    steps: list[Step] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, step: Step) -> None:
        """Note a step; the oldest goes where there are too many."""
        text = step.text if len(step.text) <= MOST_SAID else step.text[:MOST_SAID] + " …"
        self.steps = [*self.steps, dataclasses.replace(step, text=text)][-KEPT:]
        if step.over:
            self.counts[step.step] += 1

    @property
    def last(self) -> Step | None:
        """The last step of the last upgrade."""
        return self.steps[-1] if self.steps else None

    @property
    def under_way(self) -> Step | None:
        """The last step of an upgrade that has not ended."""
        over = {each.id for each in self.steps if each.over}
        left = [each for each in self.steps if each.id not in over]
        return left[-1] if left else None

    def encode(self) -> str:
        """Return what ``decode`` reads."""
        steps = [dataclasses.asdict(each) for each in self.steps]
        return json.dumps({"counts": dict(self.counts), "steps": steps})

    @classmethod
    def decode(cls, text: str | bytes) -> Self:
        """Read a journal; what is none of it, or of another version, is left out."""
        journal = cls()
        try:
            values = json.loads(text)
            for result in RESULTS:
                journal.counts[result] = int(values.get("counts", {}).get(result, 0))
            steps = [_step(each) for each in values.get("steps", ())]
            journal.steps = [each for each in steps if each.step in STEPS][-KEPT:]
        except (ValueError, TypeError, AttributeError, RecursionError):
            return cls()
        return journal

    def write(self, run_dir: Path) -> None:
        """Put it into the run folder, whole or not at all. Raises OSError."""
        path = run_dir / FILE
        beside = path.with_name(f".{FILE}.{os.getpid()}")
        try:
            beside.write_text(self.encode() + "\n", encoding="utf-8")
            beside.rename(path)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise

    @classmethod
    def read(cls, run_dir: Path) -> Self:
        """Read the run folder's; an empty one where there is none. Raises OSError."""
        try:
            with (run_dir / FILE).open("rb") as file:
                return cls.decode(file.read(_MOST))
        except FileNotFoundError:
            return cls()


def _step(values: dict[str, Any]) -> Step:
    names = {each.name for each in dataclasses.fields(Step)}
    return Step(**{name: value for name, value in values.items() if name in names})
