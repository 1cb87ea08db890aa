"""What stands in a file and does nothing as it stands: ``gateway check`` warns of it. Pure."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from gateway.config.browsers import OFF
from gateway.config.faults import Fault

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gateway.config.keys import Place
    from gateway.config.schema import Config
    from gateway.config.schema.entry import Tls
    from gateway.config.schema.limits import RateLimit

CHALLENGES = "/.well-known/acme-challenge"


def unused(config: Config) -> Iterator[Fault]:
    """Yield what does nothing, in no order."""
    yield from _limits(config)
    yield from _names(config)
    yield from _keys(config)
    yield from _certificates(config)
    yield from _challenges(config)


def _limits(config: Config) -> Iterator[Fault]:
    anywhere = any(route.auth for route in config.routes)
    sections: list[tuple[Place, object, bool, str]] = [
        (("limits", "rate"), config.limits.rate, anywhere, "on any route")
    ]
    for index, route in enumerate(config.routes):
        place: Place = ("routes", index, "rate_limit")
        sections.append((place, route.rate_limit, bool(route.auth), "on this route"))
    for place, section, asked, where in sections:
        for here, limit in _each(place, section):
            # With client beside it, the address is meant for whoever has nothing better.
            if "client" in limit.key:
                continue
            if "subject" in limit.key and not asked:
                yield Fault(
                    here,
                    f"nobody is asked who they are {where}, so subject is nobody and clients are "
                    "told apart by address: set auth, or say client",
                )
            if "identity" in limit.key and config.traffic.cohort.header is None:
                yield Fault(
                    here,
                    "no field has an identity, so clients are told apart by address: set "
                    "traffic.cohort.header, or say client",
                )


def _each(place: Place, section: object) -> Iterator[tuple[Place, RateLimit]]:
    from gateway.config.schema.limits import RateLimit

    if isinstance(section, RateLimit):
        yield (*place, "key"), section
    elif isinstance(section, tuple):
        for index, each in enumerate(section):
            yield (*place, index, "key"), each


def _names(config: Config) -> Iterator[Fault]:
    """Yield what has a name that no route says."""
    security, routes = config.security, config.routes
    profiles = security.profiles if "profiles" in security.model_fields_set else {}
    yield from _unsaid(("security", "profiles"), profiles, {each.security for each in routes})
    said = {each.cors for each in routes} | {security.cors.default, OFF}
    yield from _unsaid(("security", "cors", "profiles"), security.cors.profiles, said)
    yield from _unsaid(("auth",), config.auth, set(chain(*(each.auth for each in routes))))


def _unsaid(
    place: Place, names: Iterable[str], said: set[str | None] | set[str]
) -> Iterator[Fault]:
    for name in names:
        if name not in said:
            yield Fault((*place, name), "no route names it, so it does nothing", at_key=True)


def _keys(config: Config) -> Iterator[Fault]:
    for name, scheme in config.auth.items():
        keys = scheme.api_keys
        if keys is not None and not keys.keys and keys.keys_file is None:
            yield Fault(
                ("auth", name, "api_keys"),
                "has no keys, so it lets nobody in: set keys or keys_file",
            )


def _certificates(config: Config) -> Iterator[Fault]:
    sections: list[tuple[Place, Tls | None]] = [
        (("listen", index, "tls"), each.tls) for index, each in enumerate(config.listen)
    ]
    for place, tls in [*sections, (("admin", "tls"), config.admin.tls)]:
        seen: dict[str, int] = {}
        for index, each in enumerate(() if tls is None else tls.certificates):
            first = seen.setdefault(each.certificate, index)
            if first != index:
                yield Fault(
                    (*place, "certificates", index, "certificate"),
                    f"is certificates[{first}]'s file already, so it is never chosen",
                )


def _challenges(config: Config) -> Iterator[Fault]:
    if config.acme.folder is None:
        return
    for index, route in enumerate(config.routes):
        if f"{route.path}/".startswith(f"{CHALLENGES}/"):
            yield Fault(
                ("routes", index, "path"),
                "acme.folder answers here before any route, so this one is never asked: leave out "
                "one of the two",
            )
