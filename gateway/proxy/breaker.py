"""Breakers: pybreaker's state machine over the board's cells, so that its state is the machine's.

A ``Guard`` is entered on a failure and on a probe's outcome, never for a success on a closed
breaker. It keeps nothing itself: each time pybreaker's ``CircuitBreaker`` is made anew over the
cell's words, and so sees what any worker has done, works while control is dead, and survives a new
snapshot. Durations are taken from the monotonic clock: pybreaker asks its storage when it was
opened, by the wall clock, and is told a time that makes the difference right whatever that clock
does.
"""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pybreaker

from gateway.board import layout
from gateway.board.judge import passes_enough
from gateway.config.snapshot import Breaker
from gateway.policy import breaker as rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.board.locks import CellLocks
    from gateway.config.snapshot import Outlier

_STATES = {
    layout.BREAKER_CLOSED: pybreaker.STATE_CLOSED,
    layout.BREAKER_OPEN: pybreaker.STATE_OPEN,
    layout.BREAKER_HALF_OPEN: pybreaker.STATE_HALF_OPEN,
    layout.BREAKER_FORCED: pybreaker.STATE_OPEN,
}
_WORDS = {
    pybreaker.STATE_CLOSED: layout.BREAKER_CLOSED,
    pybreaker.STATE_OPEN: layout.BREAKER_OPEN,
    pybreaker.STATE_HALF_OPEN: layout.BREAKER_HALF_OPEN,
}


#: Nanoseconds after which a probe that has said nothing gives way to another.
LONGEST_PROBE = 30 * 10**9


class _Failed(Exception):  # noqa: N818 - what pybreaker is told, not an error
    """Stands for a failed attempt."""


def _fail() -> None:
    raise _Failed


class Breakers:
    """What the breakers of one worker share.

    ``clock`` is CLOCK_MONOTONIC in nanoseconds; ``moved`` is told (endpoint, from, to) of each
    transition that this worker makes.
    """

    def __init__(
        self,
        words: memoryview,
        slabs: int,
        locks: CellLocks,
        clock: Callable[[], int],
        moved: Callable[[str, str, str], None],
    ) -> None:
        self.words = words
        self.slabs = slabs
        self.locks = locks
        self.clock = clock
        self.moved = moved

    def totals(self, cell: int) -> tuple[int, int]:
        """Return an endpoint's finished attempts and how many of them failed, machine-wide."""
        words = self.words
        requests = failed = 0
        at = layout.SLABS_AT + layout.ENDPOINTS_AT + cell * layout.ENDPOINT_WORDS
        for slab in range(self.slabs):
            begin = at + slab * layout.SLAB_WORDS
            begun, under_way = words[begin + layout.ENDPOINT_REQUESTS], words[begin]
            requests += max(begun - under_way, 0)
            failed += words[begin + layout.ENDPOINT_FAILURES]
        return requests, failed

    def window(self, cell: int, seconds: float, now: int) -> tuple[int, int]:
        """Return the attempts and failures of the last ``seconds``, to within half of them.

        What is counted begins with the failure that first asks for it.
        """
        words, at = self.words, layout.cell_at(cell)
        requests, failed = self.totals(cell)
        age = now - words[at + layout.CELL_WINDOW]
        half = int(seconds * 5e8)
        if age >= half:
            if age >= 4 * half:  # nothing was counted lately: begin with this failure
                words[at + layout.CELL_HALF] = requests
                words[at + layout.CELL_HALF + 1] = max(failed - 1, 0)
            words[at + layout.CELL_BEFORE] = words[at + layout.CELL_HALF]
            words[at + layout.CELL_BEFORE + 1] = words[at + layout.CELL_HALF + 1]
            words[at + layout.CELL_HALF] = requests
            words[at + layout.CELL_HALF + 1] = failed
            words[at + layout.CELL_WINDOW] = now
        return (
            max(requests - words[at + layout.CELL_BEFORE], 0),
            max(failed - words[at + layout.CELL_BEFORE + 1], 0),
        )


class CellStorage(pybreaker.CircuitBreakerStorage):
    """A breaker's state in an endpoint's cell."""

    def __init__(self, shared: Breakers, cell: int, policy: Breaker) -> None:
        super().__init__("board")
        self._shared = shared
        self._words = shared.words
        self._at = layout.cell_at(cell)
        self._policy = policy
        self._successes = 0

    @property
    def state(self) -> str:
        """The cell's state in pybreaker's words."""
        return _STATES[self._words[self._at + layout.CELL_BREAKER]]

    @state.setter
    def state(self, state: str) -> None:
        now = self._shared.clock()
        if state == pybreaker.STATE_CLOSED:
            self._words[self._at + layout.CELL_WARM_FROM] = now
            self._words[self._at + layout.CELL_EARLY] = 0
        self._words[self._at + layout.CELL_BREAKER_CHANGED] = now
        self._words[self._at + layout.CELL_BREAKER] = _WORDS[state]

    def increment_counter(self) -> None:
        """Count one more failure in a row."""
        self._words[self._at + layout.CELL_RUN] += 1

    def reset_counter(self) -> None:
        """End the row of failures."""
        self._words[self._at + layout.CELL_RUN] = 0

    @property
    def counter(self) -> int:
        """Failures in a row."""
        return self._words[self._at + layout.CELL_RUN]

    def increment_success_counter(self) -> None:
        """Count a probe that passed."""
        self._successes += 1

    def reset_success_counter(self) -> None:
        """Begin anew."""
        self._successes = 0

    @property
    def success_counter(self) -> int:
        """Probes that passed."""
        return self._successes

    @property
    def opened_at(self) -> datetime:
        """When it opened, such that the wall clock's difference to now is the monotonic one's."""
        changed = self._words[self._at + layout.CELL_BREAKER_CHANGED]
        open_for = max(self._shared.clock() - changed, 0) / 1e9
        return datetime.now(UTC) - timedelta(seconds=open_for)

    @opened_at.setter
    def opened_at(self, now: datetime) -> None:
        """Note one more opening. The wall clock's ``now`` is not looked at."""
        words, at = self._words, self._at
        closed_for = (self._shared.clock() - words[at + layout.CELL_BREAKER_CHANGED]) / 1e9
        openings = words[at + layout.CELL_OPENINGS]
        if words[at + layout.CELL_BREAKER] == layout.BREAKER_CLOSED and closed_for > 2.0 * (
            rules.reset_after(self._policy.reset_after, self._policy.reset_at_most, openings)
        ):
            openings = 0
        words[at + layout.CELL_OPENINGS] = openings + 1
        words[at + layout.CELL_OPENED] += 1
        words[at + layout.CELL_PASSES_BEFORE] = words[at + layout.CELL_PASSES]


class _Teller(pybreaker.CircuitBreakerListener):
    """Tells of transitions."""

    def __init__(self, name: str, moved: Callable[[str, str, str], None]) -> None:
        self._name = name
        self._moved = moved

    def state_change(self, cb: object, old_state: object, new_state: object) -> None:
        """Pass it on in our words."""
        old, new = (getattr(each, "name", "") for each in (old_state, new_state))
        self._moved(self._name, old.replace("-", "_"), new.replace("-", "_"))

    def ejected(self) -> None:
        """Tell that the endpoint is left out."""
        self._moved(self._name, "in_service", "ejected")


class Guard:
    """One endpoint's breaker and its ejection. ``peers`` are the cells of its pool, its own
    included.
    """

    __slots__ = (
        "_at",
        "_cell",
        "_early",
        "_shared",
        "_since",
        "_teller",
        "outlier",
        "peers",
        "policy",
        "probe",
        "probing",
    )

    def __init__(self, shared: Breakers, name: str, cell: int) -> None:
        self._shared = shared
        self._cell = cell
        self._at = layout.cell_at(cell)
        self._teller = _Teller(name, shared.moved)
        self.policy = Breaker()
        self.outlier: Outlier | None = None
        self.peers: tuple[int, ...] = (cell,)
        self.probing = False
        #: The number of the probe that was taken last, from 1.
        self.probe = 0
        self._since = 0
        self._early = False

    def due(self) -> bool:
        """Tell whether an open breaker would let a request try now."""
        return self._due(self._shared.words[self._at + layout.CELL_BREAKER])

    def may_probe(self) -> bool:
        """Take the one probe of an open breaker, where it is due; ``end_probe`` must follow.

        One that has said nothing for ``LONGEST_PROBE`` (an upload that trickles, say) gives way.
        """
        words, at, shared = self._shared.words, self._at, self._shared
        if self.probing and shared.clock() - self._since < LONGEST_PROBE:
            return False
        if not self._due(words[at + layout.CELL_BREAKER]):
            return False
        if not self.probing and not shared.locks.try_probe(self._cell):
            return False
        with shared.locks.counting(self._cell):
            # Whoever held the lock before may have ended it, or somebody reset it, meanwhile.
            state = words[at + layout.CELL_BREAKER]
            self.probing = self._due(state)
            if self.probing and state == layout.BREAKER_OPEN:
                self._early = self.wait() > 0.0
                with self._machine() as machine:
                    machine.half_open()
        if self.probing:
            self.probe += 1
            self._since = shared.clock()
        else:
            shared.locks.end_probe(self._cell)
        return self.probing

    def _due(self, state: int) -> bool:
        words, at, policy = self._shared.words, self._at, self.policy
        if state != layout.BREAKER_OPEN:
            # Half open: the probe's holder is asked for by its lock, which dies with it.
            return state == layout.BREAKER_HALF_OPEN
        if self.wait() <= 0.0:
            return True
        unreached = words[at + layout.CELL_UNREACHED] == 1
        return rules.may_try_early(passes_enough(words, at), policy.probed, unreached)

    def wait(self) -> float:
        """Return the seconds until an open breaker lets one request try; 0 where it does now."""
        words, at, policy = self._shared.words, self._at, self.policy
        if words[at + layout.CELL_BREAKER] != layout.BREAKER_OPEN:
            return 0.0
        openings = words[at + layout.CELL_OPENINGS]
        wait = rules.reset_after(policy.reset_after, policy.reset_at_most, openings)
        passed = (self._shared.clock() - words[at + layout.CELL_BREAKER_CHANGED]) / 1e9
        return max(wait - passed, 0.0)

    def end_probe(self, good: bool | None, probe: int = 0) -> None:
        """End a probe; None: nothing was learned of the backend, whoever comes next tries.

        ``probe`` is its number; one that has given way to another ends nothing. 0: the last one.
        """
        shared = self._shared
        if not self.probing or probe not in {0, self.probe}:
            return
        self.probing = False
        if good is not None:
            with shared.locks.counting(self._cell):
                # Reset or opened by hand meanwhile, it is no longer this probe's to move.
                if shared.words[self._at + layout.CELL_BREAKER] == layout.BREAKER_HALF_OPEN:
                    self._enter(_passed if good else _fail, self.policy.failures)
                    if not good and self._early:
                        self._was_too_early()
        shared.locks.end_probe(self._cell)

    def _was_too_early(self) -> None:
        """Ask more of the probes before the next try ahead of time; the wait itself stays."""
        words, at = self._shared.words, self._at
        words[at + layout.CELL_EARLY] += 1
        if words[at + layout.CELL_OPENINGS] > 1:
            words[at + layout.CELL_OPENINGS] -= 1

    def failed(self, unreached: bool) -> None:
        """Count a failed attempt that was no probe."""
        shared, words, at = self._shared, self._shared.words, self._at
        policy = self.policy
        with shared.locks.counting(self._cell):
            words[at + layout.CELL_UNREACHED] = int(unreached)
            if words[at + layout.CELL_BREAKER] != layout.BREAKER_CLOSED:
                return  # it began before the breaker opened
            now = shared.clock()
            requests, failed = shared.window(self._cell, policy.window, now)
            requests += 1  # this one is still counted as under way
            if policy.failures:
                run = words[at + layout.CELL_RUN] + 1
                self._enter(_fail, rules.run_that_opens(policy.failures, requests, failed, run))
                closed = words[at + layout.CELL_BREAKER] == layout.BREAKER_CLOSED
                if closed and rules.share_opens(policy.share, policy.minimum, requests, failed):
                    with self._machine() as machine:
                        machine.open()
            if words[at + layout.CELL_BREAKER] == layout.BREAKER_CLOSED:
                self._eject(requests, failed, now)

    @contextmanager
    def _machine(self, fail_max: int = 1) -> Iterator[pybreaker.CircuitBreaker]:
        machine = pybreaker.CircuitBreaker(
            fail_max=fail_max,
            listeners=[self._teller],
            state_storage=CellStorage(self._shared, self._cell, self.policy),
            throw_new_error_on_trip=False,
        )
        try:
            yield machine
        finally:
            # It and its state know each other: a circle, and the collector hardly ever runs.
            vars(machine).clear()

    def _enter(self, outcome: Callable[[], None], fail_max: int) -> None:
        try:
            with self._machine(fail_max) as machine:
                machine.call(outcome)
        except _Failed as failed:
            # It holds the frames that it passed, and they hold it: a cycle with the request in it.
            failed.__traceback__ = None

    def _eject(self, requests: int, failed: int, now: int) -> None:
        """Leave the endpoint out for a while where it fails far more than its peers."""
        outlier, shared, words, at = self.outlier, self._shared, self._shared.words, self._at
        if outlier is None or len(self.peers) < 2 or requests < outlier.minimum:
            return
        if words[at + layout.CELL_EJECTED_UNTIL] > now:
            return
        others = others_failed = out = 0
        for cell in self.peers:
            if cell != self._cell:
                made, bad = shared.window(cell, self.policy.window, now)
                others += made
                others_failed += bad
                out += _is_out(words, layout.cell_at(cell), now)
        if not rules.is_outlier(requests, failed, others, others_failed, outlier.above):
            return
        if not rules.may_eject(len(self.peers), out, outlier.share):
            return
        quiet = (now - words[at + layout.CELL_EJECTED_UNTIL]) / 1e9
        before = rules.decayed(words[at + layout.CELL_EJECTIONS], quiet, outlier.eject_for)
        seconds = rules.eject_for(outlier.eject_for, outlier.eject_at_most, before + 1)
        until = now + int(seconds * 1e9)
        words[at + layout.CELL_EJECTIONS] = before + 1
        words[at + layout.CELL_WARM_FROM] = until
        words[at + layout.CELL_EJECTED_UNTIL] = until
        self._teller.ejected()


def _is_out(words: memoryview, at: int, now: int) -> bool:
    """Tell whether an endpoint gets no requests now: ejected, its breaker open, or down."""
    return (
        words[at + layout.CELL_EJECTED_UNTIL] > now
        or words[at + layout.CELL_BREAKER] != layout.BREAKER_CLOSED
        or words[at + layout.CELL_HEALTH] == layout.DOWN
    )


def _passed() -> None:
    """Stand for an attempt that passed."""
