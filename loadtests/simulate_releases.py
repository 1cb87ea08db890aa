"""``make simulate``: releases judged by the gateway's own analysis, healthy ones and broken ones.

Prints the design's tables from ``gateway.release.analysis``, each figure beside the one that was
expected, and two rules of others on the same traffic. Exit status 1 where a figure is outside the
margin of chance: 999 in 1,000 runs of such a simulation lie within (order statistics for medians
and percentiles, of both samples; the binomial's tail for counts).
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random

from gateway.release.analysis import Comparison, Mirror, Objective
from loadtests import streams
from loadtests.chance import Z, around, most, quantile
from loadtests.scopes import Crowd, failures_until, rolled_back
from loadtests.streams import ALPHA, Clients, Phase, Stop

#: Runs behind the design's figures.
DESIGNED = 4000
HORIZON = 200_000
#: Fewer, and ranks have no normal margin.
LEAST_RUNS = 100
ENDLESS = 10**9
#: The two-minute rule is given as long as a release at its default holds: 35 minutes.
RELEASE_SECONDS = 35 * 60
NEVER = math.inf


@dataclass(slots=True)
class Report:
    """What was found; ``wrong`` names every figure outside its margin."""

    runs: int
    healthy: int
    #: Failures that a healthy run goes on for, at most.
    length: int
    seed: int
    lines: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def sources(self, name: str, runs: int) -> list[Random]:
        """Return a source for each run: the same, whatever else is simulated."""
        return [Random(f"{self.seed}/{name}/{number}") for number in range(runs)]

    def table(self, title: str, columns: Sequence[str]) -> None:
        """Begin a table."""
        self.lines += ["", f"## {title}", "", f"| {' | '.join(columns)} |"]
        self.lines.append("|---" * len(columns) + "|")

    def row(self, cells: Sequence[str], wrong: Sequence[str] = ()) -> None:
        """Add a row and its verdict."""
        self.wrong += [f"{cells[0]}: {what}" for what in wrong]
        said = "yes" if not wrong else f"NO: {', '.join(wrong)}"
        self.lines.append(f"| {' | '.join([*cells, said])} |")


@dataclass(frozen=True, slots=True)
class Fault:
    """A row of the design's table: median and 95th percentile, and failures here and there."""

    stable: float
    candidate: float
    weight: float
    median: float
    p95: float
    here: float | None = None
    there: float | None = None
    #: Healthy requests before the fault, and the horizon.
    after: int = 0
    horizon: int = HORIZON

    @property
    def name(self) -> str:
        late = f", after {self.after:,} requests" if self.after else ""
        return f"{self.stable:.3g} → {self.candidate:.3g}, {self.weight:.0%}{late}"


FAULTS = (
    Fault(0.01, 1.0, 0.05, 3, 4, 3, 1502),
    Fault(0.01, 0.5, 0.05, 6, 13, 3, 749),
    Fault(0.01, 0.1, 0.05, 48, 124, 5, 149),
    Fault(0.01, 0.05, 0.05, 161, 422, 9, 75),
    Fault(0.001, 0.01, 0.05, 481, 1282, 5, 32),
    Fault(0.001, 0.05, 0.05, 57, 149, 3, 74),
    Fault(0.01, 0.05, 0.20, 214, 526),
    Fault(0.01, 0.05, 0.05, 308, 591, after=200_000, horizon=400_000),
)


def _found(report: Report, fault: Fault) -> list[Stop]:
    late = Phase(ENDLESS, fault.candidate, fault.stable, fault.weight)
    before = Phase(fault.after, fault.stable, fault.stable, fault.weight)
    phases = [before, late] if fault.after else [late]
    # A healthy time before costs a hundred times as much as the fault itself.
    runs = report.runs // 2 if fault.after else report.runs
    played = [
        streams.play(source, Comparison(horizon=fault.horizon), phases)
        for source in report.sources(fault.name, runs)
    ]
    return [stop for stop in played if stop is not None and stop.phase == len(phases) - 1]


def _peer(
    report: Report, name: str, runs: int, rule: Callable[[Random], int | None]
) -> list[float]:
    played = [rule(source) for source in report.sources(name, runs)]
    return [NEVER if failures is None else failures for failures in played]


def _beside(
    values: Sequence[float], share: float, designed: float | None, what: str, wrong: list[str]
) -> str:
    """Return a cell: ours and the design's; note where the latter is outside of our margin."""
    ours = quantile(values, share)
    said = "never" if ours == NEVER else f"{ours:,.0f}"
    if designed is None:
        return said
    low, high = around(values, share, DESIGNED)
    if not low <= designed <= high:
        wrong.append(f"{what} {designed:g} is outside {low:g} to {high:g}")
    return f"{said} ({designed:,g})"


def faults(report: Report) -> None:
    """How soon a broken candidate is found, here and by two other rules."""
    report.table(
        "Broken candidates (in brackets: the design's figure)",
        (
            "stable → candidate, weight",
            "candidate requests, median",
            "95th percentile",
            "users that saw a failure, here",
            "once a minute",
            "two minutes",
            "within the noise",
        ),
    )
    for fault in FAULTS:
        rate, weight = fault.candidate, fault.weight
        stops, wrong = _found(report, fault), list[str]()
        requests = [stop.requests for stop in stops]
        failures = [stop.failures for stop in stops]
        minute = _peer(
            report,
            f"minute {fault.name}",
            report.runs,
            partial(streams.once_a_minute, rate=rate, weight=weight),
        )
        two = _peer(
            report,
            f"two {fault.name}",
            report.healthy // 10,
            partial(streams.two_minutes, rate=rate, weight=weight, seconds=RELEASE_SECONDS),
        )
        cells = [
            fault.name,
            _beside(requests, 0.5, fault.median, "median", wrong),
            _beside(requests, 0.95, fault.p95, "95th percentile", wrong),
            _beside(failures, 0.5, fault.here, "failures here", wrong),
            _beside(minute, 0.5, fault.there, "failures there", wrong),
            _beside(two, 0.5, None, "", wrong),
        ]
        report.row(cells, wrong)
    report.lines += [
        "",
        f"The other rules see {streams.REQUESTS_PER_SECOND:.0f} requests a second.",
        "Every request is a client's of its own, so that failures are users.",
        "Once a minute: 99 % success; the fifth failed check goes back.",
        "Two minutes: above 5 % over 60 s, at every second for 120 s; given 35 minutes.",
    ]


def _count(
    report: Report, name: str, runs: int, play: Callable[[Random], bool], alpha: float = ALPHA
) -> None:
    """Add a row: how many of the healthy runs were rolled back, and how many may be."""
    count = sum(play(source) for source in report.sources(name, runs))
    allowed = most(runs, alpha)
    wrong = [] if count <= allowed else [f"{count} of {runs}, at most {allowed}"]
    report.row([name, f"{count} of {runs}", f"{count / runs:.2%}", f"{allowed}"], wrong)


RAMP = [
    Phase(20_000, 0.002, 0.002, 0.05),
    Phase(20_000, 0.01, 0.01, 0.20),
    Phase(20_000, 0.03, 0.03, 0.50),
]


def _outage(weight: float) -> list[Phase]:
    """Ten minutes at 0.5 %, three in which both sides fail 80 %, ten more; 100 requests/s."""
    plain = Phase(60_000, 0.005, 0.005, weight)
    return [plain, Phase(18_000, 0.8, 0.8, weight), plain]


def _equal(source: Random, requests: int, rate: float, weight: float) -> bool:
    comparison = Comparison(horizon=requests)
    return streams.play(source, comparison, [Phase(requests, rate, rate, weight)]) is not None


def _users(source: Random, phases: list[Phase], users: int, *, totals: bool = False) -> bool:
    comparison = Comparison(horizon=sum(phase.requests for phase in phases))
    return streams.play_users(source, comparison, phases, users, totals=totals)


def _sticky(source: Random, clients: Clients, *, every: bool = False) -> bool:
    return streams.play_clients(source, Comparison(), clients, every=every)


def _alone(source: Random, rate: float, requests: int) -> bool:
    objective = Objective(0.05, horizon=requests)
    return streams.play_alone(source, objective, rate, requests) is not None


def _early(source: Random, phase: Phase, beta: float) -> bool:
    return streams.promoted(source, Mirror(2.0), phase, beta)


def _two_minutes(source: Random) -> bool:
    return streams.two_minutes(source, 0.045, 0.05, 3600) is not None


def equals(report: Report) -> None:
    """Add the plain rows: equal and constant rates."""
    for rate in (0.001, 0.01, 0.05):
        for weight in (0.05, 0.2, 0.5):
            requests = min(HORIZON, round(report.length / rate))
            name = f"{rate:.1%} errors, {weight:.0%}, {requests:,} requests"
            play = partial(_equal, requests=requests, rate=rate, weight=weight)
            _count(report, name, report.healthy, play)


def healthy(report: Report) -> None:
    """Equal sides are rolled back with probability alpha at most, whatever happens to both."""
    report.table(
        f"Healthy candidates (at most {ALPHA:.0%} rolled back)",
        ("scenario", "rolled back", "share", "most by chance", "at most"),
    )
    equals(report)
    runs = report.healthy
    for weight in (0.05, 0.2, 0.5):
        name = f"both out for 3 minutes, {weight:.0%}"
        _count(report, name, runs, partial(_users, phases=_outage(weight), users=2000))
    name = "5 → 20 → 50 % while both go 0.2 → 1 → 3 %"
    _count(report, name, runs, partial(_users, phases=RAMP, users=5000))
    for broken in (0.01, 0.02):
        for failing in (0.5, 0.9):
            clients = Clients(broken, failing, 0.05)
            name = f"{broken:.0%} of sticky clients fail {failing:.0%}, 5%"
            _count(report, name, runs, partial(_sticky, clients=clients))
    for crowd in (Crowd(0.05, 0), Crowd(0.5, 0), Crowd(0.05, 3), Crowd(0.2, 3)):
        services = f", {crowd.services} services and the whole" if crowd.services else ""
        name = f"errors, refusals, 5 latencies averaged{services}, {crowd.weight:.0%}"
        _count(report, name, runs // 2, partial(rolled_back, crowd=crowd))
    for rate in (0.01, 0.05):
        name = f"alone at 100 %, {rate:.0%} errors, objective 5%"
        alone = partial(_alone, rate=rate, requests=round(report.length / 0.05))
        _count(report, name, runs // 2, alone)
    twice = Phase(round(report.length / 0.02), 0.04, 0.02, 0.05)
    name = "promoted early though twice as bad (beta 5%), 5%"
    _count(report, name, runs, partial(_early, phase=twice, beta=0.05), alpha=0.05)


def reasons(report: Report) -> None:
    """What the rules are for: healthy releases without them, and by the two-minute rule."""
    report.table(
        "What the rules are for: healthy candidates rolled back without them",
        ("scenario", "rolled back", "share", "the design's", "as expected"),
    )
    runs = max(25, report.healthy // 4)
    sticky = partial(_sticky, clients=Clients(0.01, 0.9, 0.05, count=1000), every=True)
    ramp = partial(_users, phases=RAMP, users=5000, totals=True)
    broken: list[tuple[str, str, Callable[[Random], bool]]] = [
        ("every failure of 1,000 sticky clients counts, 5%", "34 to 45 %", sticky),
        ("the weight is the totals' share, over the ramp", "100 %", ramp),
    ]
    for name, designed, play in broken:
        count = sum(play(source) for source in report.sources(name, runs))
        wrong = [] if count > most(runs, ALPHA) else ["not above chance: it shows nothing"]
        report.row([name, f"{count} of {runs}", f"{count / runs:.0%}", designed], wrong)
    name = "two-minute rule, 4.5 % errors, an hour at 5 %"
    runs = report.healthy
    count = sum(_two_minutes(source) for source in report.sources(name, runs))
    margin = Z * math.sqrt(0.4 * 0.6 * (1 / runs + 1 / DESIGNED))
    off = abs(count / runs - 0.4) > margin
    wrong = [f"{count / runs:.1%} is more than {margin:.1%} from 40 %"] if off else []
    report.row([name, f"{count} of {runs}", f"{count / runs:.1%}", "40 %"], wrong)


def whole(report: Report) -> None:
    """A release of three services with all metrics, judged as the controller does."""
    report.table(
        "All metrics of three services and the whole: the candidate's failures until rolled back",
        ("stable → candidate, weight", "median", "95th percentile", "first row: at most 5"),
    )
    for stable, candidate in ((0.001, 1.0), (0.01, 1.0), (0.01, 0.5), (0.01, 0.1)):
        phase = Phase(ENDLESS, candidate, stable, 0.05)
        name = f"{stable:g} → {candidate:g}, 5%"
        played = [
            failures_until(source, phase, 3, HORIZON)
            for source in report.sources(f"whole {name}", report.healthy)
        ]
        failures = [each for each in played if each is not None]
        p95 = quantile(failures, 0.95)
        late = candidate == 1.0 and stable < 0.01 and p95 > 5
        cells = [name, f"{quantile(failures, 0.5):g}", f"{p95:g}"]
        report.row(cells, [f"{p95:g} failures"] if late else [])


def simulate(runs: int, seed: int, *, quick: bool) -> Report:
    """Simulate everything; a quick run has shorter healthy releases."""
    report = Report(runs, max(25, runs // 4), 300 if quick else 2000, seed)
    report.lines.append(
        f"{runs} runs of a fault, {report.healthy} of a healthy release, seed {seed}"
    )
    for part in (faults, whole, healthy, reasons):
        began = time.monotonic()
        part(report)
        print(f"{part.__name__}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    if report.wrong:
        report.lines += ["", "Outside the margin:", *(f"- {each}" for each in report.wrong)]
    else:
        report.lines += ["", "All within the margin."]
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, print the tables. 0: all within the margin of chance; 1: something is not."""
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    parser.add_argument("--runs", type=int, default=None, help="runs of a fault (4000; quick: 400)")
    parser.add_argument("--seed", type=int, default=1, help="of the generator (1)")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    options = parser.parse_args(arguments)
    runs = options.runs if options.runs is not None else 400 if options.quick else DESIGNED
    if runs < LEAST_RUNS:
        parser.error(
            f"--runs {runs}: expected {LEAST_RUNS} or more; fewer have no margin to speak of"
        )
    report = simulate(runs, options.seed, quick=options.quick)
    print("\n".join(report.lines))
    return 1 if report.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
