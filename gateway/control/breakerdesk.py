"""The breakers' desk: what opening and resetting a breaker by hand makes of the state.

Pure decisions, like ``desk``. The state knows only what was opened by hand; what opened by itself
stands on the board alone.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

import msgspec

from gateway.config.snapshot import COLORS, Color, other
from gateway.control.desk import Outcome, Refused
from gateway.control.merge import endpoint_id

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from gateway.control.state import ServiceState, State

replace = msgspec.structs.replace


def ids(service: ServiceState, color: Color) -> Iterator[str]:
    """Yield the ids of the endpoints in one slot."""
    pool = service.pool(color)
    for position in range(len(pool.endpoints)):
        yield endpoint_id(service.name, color, pool.generation, position)


def located(state: State, endpoint: str) -> tuple[ServiceState, Color]:
    """Return where an endpoint stands. Raises Refused (404) for an id that there is not."""
    known = []
    for service in state.services:
        for color in COLORS:
            for each in ids(service, color):
                if each == endpoint:
                    return service, color
                known.append(each)
    close = get_close_matches(endpoint, known, n=1)
    raise Refused(
        "unknown-endpoint",
        f"there is no endpoint {endpoint!r} now; ids are of one generation of a pool",
        status=404,
        field="endpoint",
        hint=f"did you mean {close[0]}?" if close else "GET /v1/breakers lists them",
    )


def carries(service: ServiceState, color: Color) -> bool:
    """Tell whether requests are sent to a color: by its weight, or because the other is closed."""
    if color in service.closed:
        return False
    return service.carries(color) or other(color) in service.closed


def force_open(state: State, endpoint: str, usable: Collection[str], *, force: bool) -> Outcome:
    """Open an endpoint's breaker until it is reset.

    ``usable`` are the ids of the endpoints that could take requests now. Refused where none of
    them would be left to a pool that requests are sent to.
    """
    service, color = located(state, endpoint)
    if endpoint in service.forced:
        return Outcome(state)
    left = any(each in usable for each in ids(service, color) if each != endpoint)
    if not (force or left) and carries(service, color):
        role = "stable" if color == service.stable else "the candidate"
        raise Refused(
            "last-endpoint",
            f"no other endpoint of {service.name} {color} ({role}) could take its requests",
            field="endpoint",
            hint='"force": true opens it all the same; moving the traffic first is better',
        )
    forced = tuple(sorted((*service.forced, endpoint)))
    return Outcome(state.replaced(replace(service, forced=forced)), (service.name,))


def reset(state: State, endpoint: str) -> Outcome:
    """Forget that an endpoint's breaker was opened by hand."""
    service, _ = located(state, endpoint)
    if endpoint not in service.forced:
        return Outcome(state)
    forced = tuple(each for each in service.forced if each != endpoint)
    return Outcome(state.replaced(replace(service, forced=forced)), (service.name,))
