"""What is right and yet hardly meant: ``gateway check`` warns of it. Pure.

Only what costs a release or a night: a step that cannot wait for its requests, a lease that no
network keeps or that cannot run out, a way back that is asked for and forbidden, a queue that makes
overload slow for everybody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.config.faults import Fault
from gateway.config.scalars import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.config.keys import Place
    from gateway.config.schema import Config, Service
    from gateway.config.schema.releases import CspViolationsTrigger, RegressionTrigger, Releases

#: Waiters to a place in flight: with more, overload is slow for everybody.
LONG_QUEUE = 3

#: Seconds: a shorter lease is lost to a slow answer or two.
SHORTEST_LEASE = 10.0


def advice(config: Config) -> list[Fault]:
    """Return warnings about a configuration that is right.

    A place may be one that the file does not have: then it is about a default.
    """
    found = [*_steps(config.releases), *_lease(config.releases), *_forward_only(config.releases)]
    found += _tolerance(
        config.releases.triggers.regression, ("releases", "triggers", "regression", "tolerance")
    )
    for name, service in config.services.items():
        if service.triggers.regression is not None:
            place = ("services", name, "triggers", "regression", "tolerance")
            found += _tolerance(service.triggers.regression, place)
        found += _queue(name, service)
    return [*found, *_reports(config)]


def _reports(config: Config) -> Iterator[Fault]:
    if config.security.csp_reports is not None:
        return
    places: list[tuple[Place, CspViolationsTrigger | None]] = [
        (("releases", "triggers", "csp_violations"), config.releases.triggers.csp_violations)
    ]
    for name, service in config.services.items():
        own: Place = ("services", name, "triggers", "csp_violations")
        places.append((own, service.triggers.csp_violations))
    for place, trigger in places:
        if trigger is not None:
            yield Fault(
                place,
                "no reports of violations are taken, so this can never speak: set "
                "security.csp_reports: {}",
            )


def _queue(name: str, service: Service) -> Iterator[Fault]:
    length, places = service.queue.length, service.max_in_flight
    if length is not None and length > LONG_QUEUE * places and service.queue.wait > 0.0:
        yield Fault(
            ("services", name, "queue", "length"),
            f"{length} wait for {places} places (max_in_flight): under lasting load a request "
            f"takes up to {1 + length // places} times as long as it should, or gives up after "
            "queue.wait",
        )


def _steps(releases: Releases) -> Iterator[Fault]:
    most = releases.max_hold
    for index, step in enumerate(releases.steps):
        if step.hold >= most:
            yield Fault(
                ("releases", "steps", index, "hold"),
                f"max_hold ({format_duration(most)}) is not above this hold "
                f"({format_duration(step.hold)}): a step that lacks requests when it is over is "
                f"given no time, but on_inconclusive ({releases.on_inconclusive}) at once",
            )
            return


def _lease(releases: Releases) -> Iterator[Fault]:
    lease, whole = releases.lease, sum(step.hold for step in releases.steps[:-1])
    if lease is None:
        return
    if lease < SHORTEST_LEASE:
        yield Fault(
            ("releases", "lease"),
            f"{format_duration(lease)} are a slow answer or two, and then the release is lost: "
            f"{format_duration(SHORTEST_LEASE)} or more leave time to try again",
        )
    elif lease > whole > 0:
        yield Fault(
            ("releases", "lease"),
            f"longer than all holds below 100 % together ({format_duration(whole)}): it hardly "
            "runs out before a release is through",
        )


def _forward_only(releases: Releases) -> Iterator[Fault]:
    if not releases.forward_only:
        return
    if "on_lease_lost" in releases.model_fields_set and releases.on_lease_lost == "rollback":
        yield Fault(("releases", "on_lease_lost"), "forward_only holds instead")
    if releases.on_inconclusive == "rollback":
        yield Fault(("releases", "on_inconclusive"), "forward_only holds instead")


def _tolerance(regression: RegressionTrigger, place: Place) -> Iterator[Fault]:
    if regression.tolerance < 1.0:
        yield Fault(
            place,
            f"{regression.tolerance:g} asks the candidate to be better than stable: one that is "
            "just as good may be taken back",
        )
