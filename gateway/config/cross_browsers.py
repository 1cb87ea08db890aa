"""What must fit together of what browsers are told: profiles, CORS, and their routes. Pure.

As ``cross``, whose part this is: it works on the data as it stands in the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.config.browsers import OFF
from gateway.config.faults import Fault, suggestion
from gateway.config.scalars import parse_duration
from gateway.config.schema import SecurityProfile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gateway.config.keys import Place

_NONCE = "{nonce}"
#: Seconds: what lists of preloaded hosts ask for.
_YEAR = 365 * 86_400
_ANY = "*"


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _items(value: object) -> tuple[object, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else ()


def _security(data: Mapping[str, object]) -> Mapping[str, object]:
    return _mapping(data.get("security"))


def route_faults(
    index: int, route: Mapping[str, object], data: Mapping[str, object]
) -> Iterator[Fault]:
    """Yield what is wrong with a route's CORS profile, and with keeping pages that have a nonce."""
    security = _security(data)
    profiles = _mapping(_mapping(security.get("cors")).get("profiles"))
    name = route.get("cors")
    if isinstance(name, str) and name != OFF and name not in profiles:
        yield Fault(("routes", index, "cors"), f"unknown CORS profile, {_hint(name, profiles)}")
    profile = _mapping(_mapping(security.get("profiles")).get(str(route.get("security"))))
    if route.get("cache") == "on" and _has_nonce(profile):
        yield Fault(
            ("routes", index, "cache"),
            f"is on, and the profile has {_NONCE}: a stored page would say another answer's "
            "number, expected off",
        )


def _has_nonce(profile: Mapping[str, object]) -> bool:
    return any(_NONCE in str(profile.get(key)) for key in ("csp", "csp_report_only"))


def _hint(name: str, profiles: Mapping[str, object]) -> str:
    return suggestion(name, profiles) if profiles else "none is under security.cors.profiles"


def browser_faults(data: Mapping[str, object]) -> Iterator[Fault]:
    """Yield what is wrong within profiles."""
    security = _security(data)
    for name, profile in _mapping(security.get("profiles")).items():
        yield from _profile(("security", "profiles", name), _mapping(profile))
    cors = _mapping(security.get("cors"))
    profiles = _mapping(cors.get("profiles"))
    for name, profile in profiles.items():
        place: Place = ("security", "cors", "profiles", name)
        if name == OFF:
            yield Fault(place, "off means no profile, expected another name", at_key=True)
        yield from _cors(place, _mapping(profile))
    default = cors.get("default")
    if isinstance(default, str) and default not in profiles:
        yield Fault(
            ("security", "cors", "default"), f"unknown CORS profile, {_hint(default, profiles)}"
        )


def _profile(place: Place, profile: Mapping[str, object]) -> Iterator[Fault]:
    for index, key in enumerate(_items(profile.get("override"))):
        field = SecurityProfile.model_fields.get(str(key))
        default = None if field is None or _in_force(key, profile) else field.default
        if field is not None and profile.get(str(key), default) in {None, False}:
            yield Fault(
                (*place, "override", index),
                f"{key} is not sent, expected a key that is (or its field under remove)",
            )
    if profile.get("hsts_preload") is not True:
        return
    try:
        lasts = parse_duration(profile.get("hsts", "5m"))
    except (TypeError, ValueError):
        lasts = 0.0
    if lasts < _YEAR or profile.get("hsts_subdomains") is not True:
        yield Fault(
            (*place, "hsts_preload"),
            "goes by lists that ask for more, expected hsts of 365d at least and hsts_subdomains",
        )


def _in_force(key: object, profile: Mapping[str, object]) -> bool:
    """Tell whether a policy that is set takes the place of one that only reports."""
    return key == "csp_report_only" and profile.get("csp") is not None


def _cors(place: Place, profile: Mapping[str, object]) -> Iterator[Fault]:
    origins = _items(profile.get("origins"))
    if _ANY in origins and len(origins) > 1:
        yield Fault((*place, "origins"), "has * beside others, expected * alone or none")
    if profile.get("credentials") is not True:
        return
    for key in ("origins", "headers", "expose"):
        if _ANY in _items(profile.get(key)):
            yield Fault(
                (*place, key),
                "has * beside credentials, which no browser takes for a wildcard, expected a list",
            )
