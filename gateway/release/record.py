"""One release as it is stored: its plan, where it is, how it ended. Pure, frozen.

What moves with every second (how long the step has been held, what was seen) is ``Progress``,
stored beside it. Neither holds a deadline on a clock: what is kept is how much time has been spent,
so that no jump of the wall clock and no absence of control shortens a hold or ends a lease.
"""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.config.snapshot import BUCKETS, Color
from gateway.release.bounds import ServiceRules
from gateway.release.machine import RUNNING, TERMINAL, Phase, State
from gateway.release.plan import Plan, Step

#: The scope that takes all services together.
WHOLE: Final = "*"
#: Names of latency thresholds: quantiles of stable's past, and the objective.
QUANTILES: Final[tuple[tuple[str, float], ...]] = (
    ("p75", 0.75),
    ("p90", 0.90),
    ("p95", 0.95),
    ("p99", 0.99),
)
OBJECTIVE: Final = "objective"
#: How much slower than stable the candidate may be: this many times, and these seconds on top. A
#: pool with a twentieth of the requests has colder caches, and of answers that all take about a
#: millisecond a tenth more puts twice as many above a quantile.
SLOWER: Final = 1.2
SLACK: Final = 0.005

#: Nobody knows the release's plan any more (``control.orphans``).
STATE_LOST: Final = "state_lost"
#: What takes a release back: rules and tests, its lease, a step that cannot be judged, a person.
TRIGGERS: Final = (
    "regression",
    "error_rate",
    "latency",
    "unhealthy",
    "breakers_open",
    "critical_down",
    "csp_violations",
    "lease",
    "inconclusive",
    STATE_LOST,
    "manual",
)


#: Before what a rollback has to leave where it is, in a release's reason.
STAYS: Final = "; not rolled back: "


class Threshold(msgspec.Struct, frozen=True, kw_only=True):
    """A latency that is watched: where it comes from, and seconds to the response head."""

    name: str
    seconds: float

    @property
    def candidates(self) -> float:
        """What the candidate is held against: "slower by more than is harmless".

        Where it is no slower than that at any quantile, it is above its own threshold no more often
        than stable is above stable's: what the test needs. The objective is the same for both.
        """
        return self.seconds if self.name == OBJECTIVE else self.seconds * SLOWER + SLACK


class Violations(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of ``csp_violations``, see ``config.schema.releases``."""

    alpha: float
    tolerance: float


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One service of a release: what moves, and by what it is judged.

    ``thresholds`` rise. ``cold``: stable has no history, so only the objective is watched.
    ``rate`` is stable's requests a second when it began, by which evidence is paced.
    """

    service: str
    candidate: Color
    generation: int
    stable_generation: int
    rules: ServiceRules
    alpha: float
    tolerance: float
    thresholds: tuple[Threshold, ...] = ()
    cold: bool = True
    rate: float = 0.0
    #: By what reported violations are judged; None: they are not.
    csp: Violations | None = None


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """One release. Times are seconds since the epoch, for people.

    ``step`` is the index of the step in force, -1 before the first. ``because`` says why it is held
    or has ended, ``trigger`` names what made it so: a trigger of the configuration, ``regression``,
    ``lease``, ``validation``, ``inconclusive`` or ``manual``.
    """

    id: str
    number: int
    version: str
    actor: str
    reason: str
    plan: Plan
    parts: tuple[Part, ...]
    began: float
    moved: float
    state: State = "validating"
    where: Phase = "validating"
    step: int = -1
    by_hand: bool = False
    #: Held, and to be rolled back as soon as every stable of it can serve.
    wants_back: bool = False
    because: str = ""
    trigger: str = ""
    #: Requests that it is expected to see: how fast evidence begins to count.
    horizon: float = 0.0
    #: The chance of taking it back though it is healthy, shared among its scopes.
    alpha: float = 0.01
    #: Early passing: the chance of letting one pass that is ``worse`` times worse.
    beta: float = 0.05
    worse: float = 2.0
    #: How often a person has gone on from ``held``.
    looked: int = 0
    #: CLOCK_MONOTONIC: latencies of a pool that was just given traffic do not count before.
    cold_until: float = 0.0

    @property
    def running(self) -> bool:
        """Whether it is on its way."""
        return self.state in RUNNING

    @property
    def words(self) -> str:
        """Its state as people read it."""
        return self.state.replace("_", " ")

    @property
    def condemns(self) -> bool:
        """Whether its builds are not to be released again but by force: they were taken back by
        themselves, for what they did, and somebody had been exposed to them.
        """
        if self.trigger == STATE_LOST:
            return False
        back = self.state in {"rolling_back", "rolled_back"}
        return back and not self.by_hand and self.step >= 0

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""
        return self.state in TERMINAL

    @property
    def current(self) -> Step | None:
        """The step in force, None before the first."""
        return self.plan.steps[self.step] if self.step >= 0 else None

    @property
    def weight(self) -> int:
        """The candidate's share that it asks for now, in hundredths of a percent."""
        step = self.current
        return step.weight if step is not None and self.running else 0

    @property
    def full(self) -> bool:
        """Whether the candidate carries everything."""
        return self.weight == BUCKETS

    @property
    def names(self) -> tuple[str, ...]:
        """Its services."""
        return tuple(part.service for part in self.parts)

    def part(self, service: str) -> Part | None:
        """Return one service's part, None for one that is not in it."""
        for part in self.parts:
            if part.service == service:
                return part
        return None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the ledger: what was decided, and the numbers it was decided by.

    ``what`` is ``started``, ``step``, ``evaluation`` (a step's last), ``held``, ``resumed``,
    ``paused``, ``promoted``, ``rolling_back``, ``ended`` or ``lease``. ``numbers`` is JSON.
    """

    id: int = 0
    release: str
    at: float
    what: str
    state: State
    step: int
    weight: int
    text: str
    numbers: bytes = b"{}"
