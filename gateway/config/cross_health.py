"""What the levels of a service's health say about each other. Pure, like ``cross``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gateway.config.faults import Fault, suggestion
from gateway.config.placeholders import names_in
from gateway.config.scalars import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gateway.config.keys import Place

Data = object

#: What frames a request or is the gateway's own to say.
FORBIDDEN_FIELDS = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "gw_override",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_BY_FIELD = "field:"
#: RFC 9110 section 5.6.2.
_FIELD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)


def _mapping(value: Data) -> Mapping[str, Data]:
    return value if isinstance(value, dict) else {}


def health_faults(place: Place, health: Mapping[str, Data]) -> Iterator[Fault]:
    """Yield what is wrong between the keys of one ``health`` section at ``place``."""
    for upper in ("L3", "L4"):
        if health.get(upper) is not None and health.get("L2") is None:
            below = "L2" if upper == "L3" else "L2 (L3 may be absent)"
            yield Fault((*place, upper), f"runs only while {below} holds, expected L2", at_key=True)
    if _mapping(health.get("L1")).get("tcp") is False and health.get("L2") is None:
        yield Fault(
            (*place, "L1", "tcp"),
            "leaves nothing that is asked: no endpoint would ever be seen healthy, expected L1 "
            "or L2 at least",
        )
    if health.get("L3") is not None:
        yield from _self_test((*place, "L3"), _mapping(health["L3"]))
    requests = _mapping(health.get("L4")).get("requests")
    if isinstance(requests, (tuple, list)):
        yield from _sequence((*place, "L4", "requests"), [_mapping(each) for each in requests])


def _self_test(place: Place, request: Mapping[str, Data]) -> Iterator[Fault]:
    yield from _request(place, request)
    path = request.get("path")
    for name in names_in(path) if isinstance(path, str) else ():
        yield Fault(
            (*place, "path"), f"{{{name}}} is captured nowhere: L3 is one request, expected no name"
        )


def _tests_nothing(test: Data) -> bool:
    if not isinstance(test, dict) or "not" in test:  # that may well be null
        return False
    return all(value is None for value in test.values())


def _request(place: Place, request: Mapping[str, Data]) -> Iterator[Fault]:
    for name in _mapping(request.get("fields")):
        if isinstance(name, str) and name.lower() in FORBIDDEN_FIELDS:
            yield Fault(
                (*place, "fields", name),
                "is the gateway's own to send, expected another field",
                at_key=True,
            )
    for name, test in _mapping(request.get("json")).items():
        if _tests_nothing(test):
            yield Fault(
                (*place, "json", name), "tests nothing, expected present, not, above or below"
            )
    for name, source in _mapping(request.get("capture")).items():
        if isinstance(source, str) and source.startswith(_BY_FIELD):
            field = source.removeprefix(_BY_FIELD).strip()
            if _FIELD_NAME.fullmatch(field) is None:
                yield Fault(
                    (*place, "capture", name),
                    f"{shown(field)} is not a field's name, expected such as field:Location",
                )
    wanted = "json" if _mapping(request.get("json")) else "capture"
    if request.get("method") == "HEAD" and (request.get("json") or _from_body(request)):
        yield Fault(
            (*place, wanted), "looks into a body, and an answer to HEAD has none", at_key=True
        )


def _from_body(request: Mapping[str, Data]) -> bool:
    return any(
        isinstance(source, str) and not source.startswith(_BY_FIELD)
        for source in _mapping(request.get("capture")).values()
    )


def _sequence(place: Place, requests: list[Mapping[str, Data]]) -> Iterator[Fault]:
    """Yield faults of a sequence: each value is captured before it is used."""
    ever = {name for request in requests for name in _mapping(request.get("capture"))}
    known: set[str] = set()
    for index, request in enumerate(requests):
        here: Place = (*place, index)
        yield from _request(here, request)
        for inner, text, strict in _texts(request):
            for name in names_in(text):
                # The braces of a body may be JSON's own; those of a path can only be ours.
                if name not in known and (strict or name in ever):
                    hint = "only later" if name in ever else f"nowhere, {_instead(name, known)}"
                    yield Fault((*here, *inner), f"{{{name}}} is captured {hint}")
        known |= {name for name in _mapping(request.get("capture")) if isinstance(name, str)}


def _instead(name: str, known: set[str]) -> str:
    """Say what to write instead of a name that nothing captures."""
    found = suggestion(name, known) if known else ""
    return found if "did you mean" in found else "expected it in the capture of a request before"


def _texts(request: Mapping[str, Data]) -> Iterator[tuple[Place, str, bool]]:
    """Yield where values may be filled in: the place, the text, whether braces are only ours."""
    path, body = request.get("path"), request.get("body")
    if isinstance(path, str):
        yield ("path",), path, True
    for name, value in _mapping(request.get("fields")).items():
        if isinstance(value, str):
            yield ("fields", name), value, True
    if isinstance(body, str):
        yield ("body",), body, False
