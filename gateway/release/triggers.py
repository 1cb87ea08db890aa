"""The rules beside the sequential test: what takes a release back when numbers are few. Pure.

Error rate, latency, probes, breakers, and critical services without an endpoint, each by itself
enough. They are taken against stable, too: where stable is as bad, going back helps nobody, and
where it cannot serve, going back does harm; then the finding is to hold. ``now`` is CLOCK_MONOTONIC
in seconds, weights are hundredths of a percent.

**A shared outage** does not reach both sides in the same instant: it opens the candidate's breakers
a moment before stable's, and leaves them open a moment longer. Nobody must be thrown back and forth
by that. So before a candidate without anything left is taken back, a stable that has requests gets
``CONFIRM`` seconds to show the same. And once a finding was to hold because of stable, it stays so
until stable has been well for ``GRACE`` seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from gateway.config.scalars import format_duration
from gateway.release.bounds import ServiceRules
from gateway.release.facts import Finding, PoolFacts, ServiceFacts, Speaks, Trigger
from gateway.release.windows import ENOUGH, GAP, LONGEST, Rate, Sustained, Unhealthy, Window

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


FULL_WEIGHT = 10_000

#: Seconds that stable gets to show that an outage is its own as well: more than a worker lets pass
#: between two tallies (``proxy.tally.EVERY``) and one turn of its wheel.
CONFIRM = 0.75
#: Seconds that stable must be well after an outage of both before the candidate is taken back.
GRACE = 30.0
#: The candidate is worse than a stable that is bad itself from this many times its rate on ...
TIMES = 2.0
#: ... and never once stable fails this share, of all requests or of those since the candidate has
#: had nothing left: twice as much is more than all.
LOST = 0.5
#: Failures of stable in the last ``SPANS`` seconds, and their share, that make it no better than a
#: candidate with nothing left. The share is no half: an outage half a second old fills but a part
#: of two seconds. It is more than the error rate's bound: a stable that fails some requests, as
#: ever, is a far better place than a pool that is dead.
FEWEST = 3
AILING = 0.25
SPANS = (2, 10)


class Sides(msgspec.Struct):
    """The same count of both sides."""

    candidate: Window = msgspec.field(default_factory=Window)
    stable: Window = msgspec.field(default_factory=Window)

    def of(self, candidate: bool) -> Window:
        """Return one side's."""
        return self.candidate if candidate else self.stable


class Suspicion(msgspec.Struct, frozen=True):
    """Since when a rule that needs no time is up, and what stable had counted by then."""

    since: float
    requests: int
    bad: int


class Watched(msgspec.Struct):
    """One service of a release: its counts, and what of its rules must be remembered."""

    rules: ServiceRules
    error_rate: Sustained
    latency: Sustained
    unhealthy: Unhealthy
    errors: Sides = msgspec.field(default_factory=Sides)
    slow: Sides = msgspec.field(default_factory=Sides)
    #: By rule.
    suspected: dict[str, Suspicion] = {}
    #: When a rule was up and stable as bad, last.
    shared: float | None = None
    seen: float | None = None
    critical: bool = False

    @classmethod
    def by(cls, rules: ServiceRules) -> Watched:
        """Return the state to begin with."""
        return cls(
            rules,
            Sustained(rules.error_above, rules.error_for),
            Sustained(rules.slow_above, rules.latency_for),
            Unhealthy(rules.unhealthy_for),
        )

    def look(self, now: float, facts: ServiceFacts, weight: int) -> list[Finding]:
        """Return what is up. At weight 0 nobody is exposed, and nothing counts."""
        if self.seen is not None and not 0.0 <= now - self.seen <= GAP:
            self.suspected.clear()
        self.seen, self.critical = now, facts.critical
        if weight <= 0:
            self._rest()
            found = []
        else:
            found = [
                *self._by_rate(now, "error_rate", facts, weight),
                *self._by_rate(now, "latency", facts, weight),
                *self._by_probes(now, facts),
                *self._at_once(now, "breakers_open", facts, weight, up=facts.candidate.all_open),
                *self._at_once(
                    now,
                    "critical_down",
                    facts,
                    weight,
                    up=facts.critical and not facts.candidate.can_serve,
                ),
            ]
        if facts.candidate.can_serve and not facts.stable.can_serve:
            found.append(_stable_lost(facts))
        return found

    def conditions(self, now: float, facts: ServiceFacts) -> set[Trigger]:
        """Return what is not seen to be well: as ``look``, for however short, whatever the excuse.

        A rate that is not known is not seen to be under its bound.
        """
        errors, slow = self.errors.candidate.rate(now), self.slow.candidate.rate(now)
        up: dict[Trigger, bool] = {
            "error_rate": errors is None or errors.share > self.error_rate.above,
            "latency": slow is None or slow.share > self.latency.above,
            "unhealthy": facts.candidate.failing_since is not None,
            "breakers_open": facts.candidate.all_open,
            "critical_down": facts.critical and not facts.candidate.can_serve,
        }
        found = {trigger for trigger, is_up in up.items() if is_up}
        if facts.candidate.can_serve and not facts.stable.can_serve:
            found.add(_stable_lost(facts).trigger)
        return found

    def near(self, now: float) -> bool:
        """Tell whether a rule is over its bound, for however short."""
        return (
            self.error_rate.over(now)
            or self.latency.over(now)
            or self.unhealthy.since is not None
            or bool(self.suspected)
        )

    def fresh(self) -> None:
        """Begin all times anew; the counts stay."""
        self.error_rate.fresh()
        self.latency.fresh()
        self.unhealthy.fresh()
        self.suspected.clear()

    def _rest(self) -> None:
        """Let nothing be over its bound; probes go on failing since they began to."""
        self.error_rate.fresh()
        self.latency.fresh()
        self.unhealthy.since = None
        self.suspected.clear()

    def speaks(self, now: float, service: str) -> list[Speaks]:
        """Tell which rules have what they need."""
        return [
            _speaks("error_rate", service, self.errors.candidate, now),
            _speaks("latency", service, self.slow.candidate, now),
            Speaks("unhealthy", service, can=True),
            Speaks("breakers_open", service, can=True),
            Speaks("critical_down", service, can=True)
            if self.critical
            else Speaks(
                "critical_down", service, can=False, why=f"critical_down: {service} is not critical"
            ),
        ]

    def _by_rate(
        self,
        now: float,
        trigger: Literal["error_rate", "latency"],
        facts: ServiceFacts,
        weight: int,
    ) -> list[Finding]:
        errors = trigger == "error_rate"
        sides, rule = (self.errors, self.error_rate) if errors else (self.slow, self.latency)
        rate = sides.candidate.rate(now)
        since = rule.look(now, None if rate is None else rate.share)
        if rate is None or since is None or not rule.up(now):
            return []
        # Over the candidate's own span: one that stretches minutes back remembers an outage of both
        # for longer than stable's last minute does. At full weight stable has no requests to judge.
        stable = sides.stable.over(now, rate.seconds, ENOUGH) if weight < FULL_WEIGHT else None
        numbers: dict[str, float | str] = {
            "share": rate.share,
            "requests": rate.requests,
            "bad": rate.bad,
            "seconds": rate.seconds,
            "above": rule.above,
            "for": now - since,
        }
        excuse = ""
        if stable is not None:
            numbers |= {"stable_share": stable.share, "stable_requests": stable.requests}
            excuse = _as_bad(rate, stable, rule.above)
        did = "failed" if errors else f"took over {format_duration(self.rules.latency_above)}"
        if not errors:
            numbers |= {"slower_than": self.rules.latency_above}
            numbers |= {"quantile": self.rules.latency_quantile}
        text = (
            f"{_percent(rate.share)} of the candidate's {rate.requests} requests in {rate.seconds}s"
            f" {did}, above {_percent(rule.above)} for {int(now - since)}s"
            + (f"; of stable's {_percent(stable.share)}" if stable is not None else "")
        )
        return [self._finding(now, trigger, facts, text, numbers, excuse)]

    def _by_probes(self, now: float, facts: ServiceFacts) -> list[Finding]:
        since = self.unhealthy.look(now, facts.candidate.failing_since)
        if since is None or not self.unhealthy.up(now):
            return []
        text = f"probes of every endpoint of the candidate have failed for {int(now - since)}s"
        numbers: dict[str, float | str] = {"for": now - since, "above": self.unhealthy.for_}
        excuse = self._ailing(now, facts.stable)
        return [self._finding(now, "unhealthy", facts, text, numbers, excuse)]

    def _at_once(
        self,
        now: float,
        trigger: Literal["breakers_open", "critical_down"],
        facts: ServiceFacts,
        weight: int,
        *,
        up: bool,
    ) -> list[Finding]:
        """Return a rule that needs no time, once stable had its chance to show the same."""
        if not up:
            self.suspected.pop(trigger, None)
            return []
        counted = self.errors.stable
        begun = self.suspected.setdefault(trigger, Suspicion(now, counted.requests, counted.bad))
        excuse = self._ailing(now, facts.stable) or self._failing_since(now, begun)
        waits = now - begun.since < CONFIRM and self._in_doubt(now, facts.stable, weight)
        if waits and facts.stable.can_serve and not excuse:
            return []
        text = (
            "the breakers of all endpoints of the candidate are open"
            if trigger == "breakers_open"
            else "the candidate of a critical service has no endpoint left that can serve"
        )
        return [self._finding(now, trigger, facts, text, facts.candidate.numbers, excuse)]

    def _in_doubt(self, now: float, stable: PoolFacts, weight: int) -> bool:
        """Tell whether stable may be about to show what the candidate shows.

        That its last tally knew of no failure says little: it may end before the outage began.
        """
        if stable.breakers_open > 0:
            return True
        return weight < FULL_WEIGHT and self.errors.stable.over(now, SPANS[0]) is not None

    def _failing_since(self, now: float, begun: Suspicion) -> str:
        """Return how stable fails since the candidate has nothing left; empty: it does not.

        Sharper than trailing seconds as long as the outage is younger than these. A single failure
        is enough, for holding wrongly costs ``GRACE`` seconds.
        """
        if now - begun.since > SPANS[0]:
            return ""
        stable = self.errors.stable
        requests, bad = stable.requests - begun.requests, stable.bad - begun.bad
        if bad == 0 or bad < LOST * requests:
            return ""
        return f"{bad} of stable's {requests} requests since then failed, too"

    def _ailing(self, now: float, stable: PoolFacts) -> str:
        """Return why stable is no better than a pool with nothing left; empty: it is better."""
        if stable.all_open:
            return "the breakers of all of stable's endpoints are open, too"
        if stable.failing_since is not None:
            return "probes of every endpoint of stable fail, too"
        for seconds in SPANS:
            rate = self.errors.stable.over(now, seconds)
            least = max(AILING, self.rules.error_above)
            if rate is not None and rate.bad >= FEWEST and rate.share > least:
                return f"{_percent(rate.share)} of stable's requests in {seconds}s failed, too"
        return ""

    def _finding(
        self,
        now: float,
        trigger: Trigger,
        facts: ServiceFacts,
        text: str,
        numbers: dict[str, float | str],
        excuse: str,
    ) -> Finding:
        """Return what a rule that is up comes to; ``excuse``: why going back helps nobody."""
        if not facts.stable.can_serve:
            excuse = "stable cannot serve"
        if excuse:
            self.shared = now
        elif self.shared is not None and 0.0 <= now - self.shared < GRACE:
            excuse = f"stable was as bad until {int(now - self.shared)}s ago"
        text = f"{facts.service}: {text}"
        if not excuse:
            return Finding(trigger, facts.service, "roll_back", text, numbers)
        critical = not facts.stable.can_serve
        return Finding(
            trigger, facts.service, "hold", f"{text}; no way back: {excuse}", numbers, critical
        )


class Rules(msgspec.Struct):
    """The rules of one release, to be looked at every second or more often, whatever its state."""

    services: dict[str, Watched]

    @classmethod
    def of(cls, services: Mapping[str, ServiceRules]) -> Rules:
        """Return the rules of a release of these services."""
        return cls({name: Watched.by(rules) for name, rules in services.items()})

    def count(
        self,
        now: float,
        service: str,
        candidate: bool,
        requests: int,
        failed: int,
        timed: int,
        slow: int,
    ) -> None:
        """Count requests of one side as ``channel.messages.Counted`` has them.

        Those of services that are not in the release are left out. ValueError where more failed
        than there were, or more were slow than timed.
        """
        watched = self.services.get(service)
        if watched is not None:
            watched.errors.of(candidate).add(now, requests, failed)
            watched.slow.of(candidate).add(now, timed, slow)

    def look(self, now: float, facts: Sequence[ServiceFacts], weight: int) -> list[Finding]:
        """Return all that is up at this moment, at the release's ``weight``.

        Each finding is of one service: where one says to roll back and another's says to hold, the
        first may go back and the second may not. A finding comes with every look for as long as
        its rule is up. KeyError for a service said to be in the release that is not.
        """
        found: list[Finding] = []
        for each in facts:
            if each.in_release:
                found += self.services[each.service].look(now, each, weight)
            elif each.critical and not each.stable.can_serve:
                found.append(_outsider_lost(each))
        return found

    def conditions(self, now: float, facts: Sequence[ServiceFacts]) -> set[tuple[Trigger, str]]:
        """Return triggers and services whose findings may come again by time alone."""
        found: set[tuple[Trigger, str]] = set()
        for each in facts:
            if each.in_release:
                here = self.services[each.service].conditions(now, each)
                found |= {(trigger, each.service) for trigger in here}
            elif each.critical and not each.stable.can_serve:
                found.add(("critical_down", each.service))
        return found

    def near(self, now: float) -> bool:
        """Tell whether any rule is over its bound, for however short."""
        return any(each.near(now) for each in self.services.values())

    def speaks(self, now: float) -> list[Speaks]:
        """Tell of each rule whether it can speak at this traffic, and if not, why."""
        return [line for name, each in self.services.items() for line in each.speaks(now, name)]

    def fresh(self) -> None:
        """Begin all times anew, as after an operator's resume; the counts stay."""
        for each in self.services.values():
            each.fresh()


def _as_bad(candidate: Rate, stable: Rate, above: float) -> str:
    """Return how stable is as bad as the candidate; empty where it is not."""
    if stable.share <= above:
        return ""
    if candidate.share < TIMES * stable.share or stable.share >= LOST:
        return f"{_percent(stable.share)} of stable's {stable.requests} are no better"
    return ""


def _stable_lost(facts: ServiceFacts) -> Finding:
    return Finding(
        "critical_down" if facts.critical else "unhealthy",
        facts.service,
        "hold",
        f"{facts.service}: stable cannot serve and the candidate can; no way back",
        facts.stable.numbers,
        critical=True,
    )


def _outsider_lost(facts: ServiceFacts) -> Finding:
    return Finding(
        "critical_down",
        facts.service,
        "hold",
        f"{facts.service}: critical, not part of the release, and no endpoint is left that can"
        " serve; going back would not bring it back",
        facts.stable.numbers,
        critical=True,
    )


def _speaks(trigger: Trigger, service: str, window: Window, now: float) -> Speaks:
    if window.rate(now) is not None:
        return Speaks(trigger, service, can=True)
    seen = window.over(now, LONGEST)
    requests = 0 if seen is None else seen.requests
    why = f"{trigger}: {requests} requests in {LONGEST // 60} minutes, {ENOUGH} are needed"
    return Speaks(trigger, service, can=False, why=why)


def _percent(share: float) -> str:
    return f"{100.0 * share:.3g} %"
