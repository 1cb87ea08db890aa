"""A release as a picture: for ``gateway release show``, and moving for ``watch`` on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gateway.admin import release_models as models
from gateway.cli import release_words as words
from gateway.cli.output import colored, console, percent, safe, table
from gateway.cli.release_waits import forced, outlook, probes_pass, span, waits
from gateway.client.api import Reply

#: Columns of a bar, and of one in a table.
WIDE = 40
NARROW = 12
#: Columns of a terminal that has room for a bar in a table.
ROOMY = 96

_STYLES = {
    "pass": "green",
    "fail": "bold red",
    "inconclusive": "",
    "finalized": "bold green",
    "held": "bold yellow",
    "paused": "yellow",
    "rolling_back": "bold red",
    "rolled_back": "bold red",
    "aborted": "bold red",
}


def picture(status: models.ReleaseStatus, width: int) -> Group:
    """Return everything that is known of a release, to be printed in so many columns."""
    return Group(*_parts(status, roomy=width >= ROOMY))


def _parts(status: models.ReleaseStatus, *, roomy: bool) -> Iterator[RenderableType]:
    """Give the picture's parts from top to bottom."""
    if on_stable := forced(status):
        yield _text(on_stable, "bold red")
    yield _head(status)
    if why := words.because(status):
        yield _text(f"because: {why}", _STYLES.get(status.state, ""))
    yield Text("")
    yield _progress(status)
    exposed = status.step > 0
    if status.scopes and exposed:
        yield Text("")
        yield _scopes(status, roomy=roomy)
    if status.pools:
        yield Text("")
        yield _pools(status)
    for ailment in words.ailments(status):
        yield _text(ailment, "red")
    if missing := waits(status):
        yield Text("")
        yield Text("waits for")
        for wait in missing:
            yield _text(f"  {wait}")
    if ahead := outlook(status):
        yield _text(f"outlook: {ahead}")
    if status.state == "finalized" and words.unopposed(status):
        yield Text(words.NOTHING, style="green")


def _text(text: str, style: str = "") -> Text:
    """Return a line that moves nobody's cursor."""
    return Text(safe(text), style=style)


def _head(status: models.ReleaseStatus) -> Text:
    """Return the line with the release's name, state and age."""
    head = _text(words.title(status), "bold")
    head.append(f" of {safe(words.services(status))}: ", style="not bold")
    head.append(status.state.replace("_", " "), style=_STYLES.get(status.state, "bold"))
    head.append(f", {safe(words.position(status))}", style="not bold")
    head.append(
        f", began {words.moment(status.began)} by {safe(status.actor)}", style="dim not bold"
    )
    return head


def _progress(status: models.ReleaseStatus) -> Table:
    """Return the steps, the weight, the hold and what counts towards the gate."""
    grid = Table.grid(padding=(0, 2))
    steps = Text()
    for step in status.plan:
        style = {"done": "green", "current": "bold reverse", "ahead": "dim"}[step.state]
        label = f" {percent(step.weight)} " if step.state == "current" else percent(step.weight)
        steps.append(label, style=style).append("  ")
    grid.add_row("steps", steps)
    grid.add_row("weight", _bar(words.weight(status), 100, WIDE), percent(words.weight(status)))
    gate = status.gate
    if gate is not None and status.step > 0:
        held = f"{span(gate.held)} of {span(gate.hold)}"
        left = gate.hold - gate.held
        if left > 0:
            held += f", {span(left)} left"
        grid.add_row("hold", _bar(gate.held, gate.hold, WIDE), held)
        grid.add_row("requests", _bar(gate.requests, gate.min_requests, WIDE),
                     f"{gate.requests} (at least {gate.min_requests})")  # fmt: skip
        grid.add_row("clients", _bar(gate.keys, gate.min_keys, WIDE),
                     f"{gate.keys} (at least {gate.min_keys})")  # fmt: skip
    if gate is not None:
        probes = (
            Text("pass", style="green") if probes_pass(status) else Text("fail", style="bold red")
        )
        grid.add_row("probes", probes)
    if status.lease is not None:
        grid.add_row("lease", _bar(status.lease.left, status.lease.seconds, WIDE),
                     _lease(status.lease))  # fmt: skip
    return grid


def _lease(lease: models.LeaseStatus) -> str:
    """Say how long a lease has, and what happens then."""
    if lease.rests:
        return f"{span(lease.seconds)}, rests"
    return f"{span(lease.left)} left of {span(lease.seconds)}, lost: {lease.on_lost}"


def _bar(value: float, total: float, width: int) -> ProgressBar:
    """Return a bar; full where there is nothing to reach."""
    return ProgressBar(total=max(total, 1e-9), completed=min(value, total) or 0, width=width)


def _scopes(status: models.ReleaseStatus, *, roomy: bool) -> Table:
    """Return each scope's two sides, its evidence on the way to the threshold, its verdict."""
    columns = ["scope", "requests", "errors", "stable", "p95", "stable", "evidence"]
    made = table([*columns, "", "verdict"] if roomy else [*columns, "verdict"], [])
    for column in made.columns:
        column.no_wrap = True
    for scope in status.scopes:
        style = "red" if scope.verdict == "fail" else "yellow"
        evidence = f"{words.number(scope.evidence)}/{words.number(scope.threshold)}"
        bar = ProgressBar(
            total=1.0,
            completed=scope.progress,
            width=NARROW,
            complete_style=style,
            finished_style="bold red",  # at the threshold it is taken back: nothing to be green for
        )
        verdict = _verdict(status, scope)
        made.add_row(
            _text("all" if scope.scope == "*" else scope.scope),
            str(scope.candidate.requests),
            words.share(scope.candidate.error_rate),
            words.share(scope.stable.error_rate),
            words.milliseconds(scope.candidate.p95_ms),
            words.milliseconds(scope.stable.p95_ms),
            evidence,
            *([bar] if roomy else []),
            Text(verdict, style=_STYLES[scope.verdict]),
        )
    return made


def _verdict(status: models.ReleaseStatus, scope: models.ScopeStatus) -> str:
    """Say what a scope says; what has not failed by the end will not."""
    if status.state == "finalized" and scope.verdict != "fail":
        return "nothing against it"
    return "no verdict" if scope.verdict == "inconclusive" else scope.verdict


def _pools(status: models.ReleaseStatus) -> Table:
    """Return the candidate pools with their generations; their health while it matters."""
    rows: list[list[str | Text]] = [
        [
            pool.service,
            colored(pool.color),
            str(pool.generation),
            str(pool.stable_generation),
            Text(pool.health, style="" if pool.health == "up" else "red"),
        ]
        for pool in status.pools
    ]
    columns = ["service", "candidate", "generation", "stable's", "health"]
    if status.state in words.ENDED:  # what was put there since is not this release's
        return table(columns[:-1], [row[:-1] for row in rows])
    return table(columns, rows)


class Picture:
    """The picture on a terminal, drawn anew with each answer."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._status: models.ReleaseStatus | None = None
        self._notes: list[str] = []
        self._live = Live(console=console(), auto_refresh=False)
        self._live.start()

    def seen(self, reply: Reply[models.ReleaseStatus]) -> None:
        """Draw what was answered."""
        self._status = reply.value
        self._draw()

    def note(self, text: str) -> None:
        """Draw the last few notes below the picture: lines of their own would tear it."""
        self._notes = [*self._notes, f"{words.clock_time(self._wall())} {text}"][-3:]
        self._draw()

    def close(self) -> None:
        """Leave the last picture standing and give the terminal back."""
        self._live.stop()

    def _draw(self) -> None:
        """Draw the release and the notes."""
        parts: list[RenderableType] = []
        if self._status is not None:
            parts.append(picture(self._status, self._live.console.width))
        parts += [_text(note, "yellow") for note in self._notes]
        self._live.update(Group(*parts), refresh=True)
