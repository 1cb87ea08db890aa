"""What is told of a release, and once: events, alerts and what a person can do about it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from gateway.release import account

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gateway.release.facts import Finding
    from gateway.release.judgement import Judgement
    from gateway.release.record import Release

#: Seconds after which what was told of a release that is held, and is over, is told again.
FORGOTTEN: Final = 60.0

_HINTS: Final = {
    "configuration": "put the service back into the file and restart control, or abort it",
    "state_lost": "its plan is gone: promote takes it to 100 % and on, abort --force back",
    "lease": "resume goes on with a full lease; abort takes it back",
    "inconclusive": "promote takes it on as it is, resume waits again; or abort it",
}


def shown(run: Release, actor: str) -> dict[str, object]:
    """Return what events say of a release."""
    return {
        "id": run.id,
        "version": run.version,
        "state": run.state,
        "step": run.step + 1,
        "steps": len(run.plan.steps),
        "weight": run.weight / 100,
        "services": run.names,
        "trigger": run.trigger,
        "because": run.because,
        "actor": actor,
    }


def reason(run: Release) -> tuple[object, ...]:
    """Return what an alert about a release is told of once: held for another reason is news."""
    if run.state != "held":
        return (run.state,)
    return run.state, run.trigger, run.because, run.wants_back, run.moved


def hint(run: Release) -> str:
    """Return what a person can do about it; empty: nothing is to be done."""
    if run.state != "held":
        return ""
    if run.wants_back:
        return "it goes back as soon as stable can serve; rollback --force insists"
    return _HINTS.get(run.trigger, "find out why; then resume, promote or abort it")


class News(NamedTuple):
    """What has come up while a release is held: a finding, or evidence of no one service."""

    trigger: str
    service: str
    text: str
    numbers: dict[str, Any]
    critical: bool = False

    @property
    def of(self) -> tuple[str, str]:
        """What is told once: that somebody must come for a service, whichever rule said so first;
        a dying pool meets them all one after the other.
        """
        return "" if self.critical else self.trigger, self.service


def worth_telling(run: Release, judgement: Judgement, findings: Sequence[Finding]) -> list[News]:
    """Return what somebody must come for though it is held already."""
    back = run.plan.forward_only and run.weight > 0
    found = []
    for each in findings:
        told = each.critical or (back and each.what == "roll_back")
        if told and (each.trigger, each.service) not in judgement.known.seen_to:
            found.append(
                News(each.trigger, each.service, each.text, dict(each.numbers), each.critical)
            )
    if back and (over := judgement.over()):
        text = "; ".join(account.in_words(run, judgement, name) for name in over)
        found.append(News("regression", "", text, {}))
    if back and (violating := judgement.violating()):
        text = "; ".join(account.violations_in_words(judgement, name) for name in violating)
        found.append(News("csp_violations", "", text, {}))
    return found


class Told:
    """What the hold in force has told of, and when that was seen last. ``now`` is seconds."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], float] | None = None

    def clear(self) -> None:
        """Note that nothing is held."""
        self._seen = None

    def fresh(self, run: Release, up: Sequence[News], now: float) -> list[News]:
        """Return what of all that is up was not told yet. What it is held for was."""
        seen = self._seen
        if seen is None:
            seen = {
                each.of: now
                for each in up
                if each.trigger == run.trigger and each.service in run.because
            }
        seen |= {each.of: now for each in up if each.of in seen}
        self._seen = {key: at for key, at in seen.items() if now - at < FORGOTTEN}
        return [each for each in up if each.of not in self._seen]

    def tell(self, keys: Iterable[tuple[str, str]], now: float) -> None:
        """Note what was told."""
        if self._seen is not None:
            self._seen |= dict.fromkeys(keys, now)
