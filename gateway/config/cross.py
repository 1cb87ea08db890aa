"""What one key of a configuration says about another. Pure.

Works on the data as it stands in the file, not on ``Config``: it must still speak where another key
is wrong, so that all errors of a file are told at once. What is not even of the right shape is
passed over here; the types have refused it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.board.layout import MAX_ENDPOINTS, MAX_SERVICES
from gateway.config.addresses import (
    parse_admin_address,
    parse_endpoint,
    parse_listen,
    parse_route_host,
    parse_route_path,
)
from gateway.config.browsers import PAGE
from gateway.config.cross_auth import auth_faults
from gateway.config.cross_browsers import browser_faults, route_faults
from gateway.config.cross_health import health_faults
from gateway.config.cross_limits import limit_faults
from gateway.config.faults import Fault, suggestion
from gateway.config.scalars import parse_size, shown
from gateway.config.schema import Admin, Cache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from gateway.config.addresses import SocketAddress
    from gateway.config.keys import Place

Data = object

#: Percent: everything, and the least that a split can tell apart.
_ALL = 100
_FINEST = 0.01
#: Where the admin API is unless the file says so.
_ADMIN = str(Admin().address)


def mapping(value: Data) -> Mapping[str, Data]:
    """Return keys and values, none where it is something else."""
    return value if isinstance(value, dict) else {}


def items(value: Data) -> tuple[Data, ...]:
    """Return a list's items, none where it is something else."""
    return tuple(value) if isinstance(value, (tuple, list)) else ()


def _parsed(parse: Callable[[str], object], value: Data) -> str | None:
    """Return the canonical form, None where it has none (the types have said so)."""
    if not isinstance(value, str):
        return None
    try:
        return str(parse(value))
    except ValueError:
        return None


def _at_most_one(place: Place, data: Data, first: str, second: str) -> Iterator[Fault]:
    keys = mapping(data)
    if keys.get(first) is not None and keys.get(second) is not None:
        yield Fault(
            (*place, second), f"stands beside {first}, expected one of the two", at_key=True
        )


def _exactly_one(place: Place, data: Data, first: str, second: str) -> Iterator[Fault]:
    yield from _at_most_one(place, data, first, second)
    keys = mapping(data)
    if isinstance(data, dict) and keys.get(first) is None and keys.get(second) is None:
        yield Fault(place, f"neither {first} nor {second} is there, expected one of them")


def _socket(parse: Callable[[str], SocketAddress], value: Data) -> SocketAddress | None:
    """Return a listening address, None where it is none (the types have said so)."""
    if not isinstance(value, str):
        return None
    try:
        return parse(value)
    except ValueError:
        return None


def _listeners(data: Mapping[str, Data]) -> Iterator[Fault]:
    opened: list[tuple[int, SocketAddress]] = []

    def meets(socket: SocketAddress) -> str:
        for index, other in opened:
            if socket.overlaps(other):
                return f"{socket} meets listen[{index}] ({other}), expected another port or address"
        return ""

    for index, item in enumerate(items(data.get("listen"))):
        listener = mapping(item)
        socket = _socket(parse_listen, listener.get("address"))
        if socket is not None:
            if meets(socket):
                yield Fault(("listen", index, "address"), meets(socket))
            opened.append((index, socket))
        if listener.get("tls") is not None and listener.get("redirect_to_https") is not None:
            yield Fault(
                ("listen", index, "redirect_to_https"),
                "this listener speaks https itself, expected only where tls is absent",
                at_key=True,
            )
    address = mapping(data.get("admin")).get("address", _ADMIN)
    socket = _socket(parse_admin_address, address)
    if socket is not None and meets(socket):
        yield Fault(("admin", "address"), meets(socket))


def _admin(data: Mapping[str, Data]) -> Iterator[Fault]:
    admin = mapping(data.get("admin"))
    socket = _socket(parse_admin_address, admin.get("address"))
    secured = admin.get("tls") is not None
    if socket is not None and not socket.local and not secured:
        yield Fault(
            ("admin", "address"),
            f"{socket} can be reached from other machines, and tokens would pass in the clear, "
            "expected a loopback address, unix:/path, or admin.tls",
        )
    if socket is not None and socket.unix and secured:
        yield Fault(
            ("admin", "tls"),
            "a Unix socket speaks no TLS, expected an address and port",
            at_key=True,
        )
    names: dict[str, int] = {}
    for index, item in enumerate(items(admin.get("tokens"))):
        place: Place = ("admin", "tokens", index)
        yield from _exactly_one(place, item, "token_env", "token_file")
        name = mapping(item).get("name")
        if isinstance(name, str) and name in names:
            yield Fault((*place, "name"), f"is admin.tokens[{names[name]}]'s name already")
        elif isinstance(name, str):
            names[name] = index


def _pools(name: str, service: Mapping[str, Data]) -> Iterator[Fault]:
    place: Place = ("services", name)
    stable = service.get("initial_stable", "blue")
    if service.get("blue") is None and service.get("green") is None:
        yield Fault(place, "has no pool, expected blue or green with endpoints")
    elif stable in {"blue", "green"} and service.get(str(stable)) is None:
        here = (*place, "initial_stable") if "initial_stable" in service else place
        yield Fault(here, f"{stable} holds production at first, expected a pool of that color")
    for color in ("blue", "green"):
        seen: dict[str, int] = {}
        for index, item in enumerate(items(mapping(service.get(color)).get("endpoints"))):
            url = _parsed(lambda text: parse_endpoint(text).url, item)
            if url is not None and url in seen:
                yield Fault(
                    (*place, color, "endpoints", index),
                    f"is the same endpoint as endpoints[{seen[url]}]",
                )
            elif url is not None:
                seen[url] = index


def _service(name: str, service: Mapping[str, Data], names: set[str]) -> Iterator[Fault]:
    place: Place = ("services", name)
    yield from _pools(name, service)
    for index, other in enumerate(items(service.get("depends_on"))):
        if isinstance(other, str) and other not in names:
            yield Fault(
                (*place, "depends_on", index),
                f"{shown(other)} is no service, {suggestion(other, names)}",
            )
    for index, item in enumerate(items(service.get("fallback"))):
        yield from _exactly_one((*place, "fallback", index), item, "stale", "static")
    for index, item in enumerate(items(mapping(service.get("breaker")).get("on"))):
        if item == "4xx" or (isinstance(item, int) and 400 <= item < 500):
            yield Fault(
                (*place, "breaker", "on", index),
                f"{item} is the client's mistake, expected connect, reset, timeout or a 5xx",
            )
    yield from health_faults((*place, "health"), mapping(service.get("health")))


def _circles(services: Mapping[str, Data]) -> Iterator[Fault]:
    """Yield each circle of ``depends_on`` once, at the service of it that comes first."""
    edges = {
        name: [
            other
            for other in items(mapping(service).get("depends_on"))
            if isinstance(other, str) and other in services
        ]
        for name, service in services.items()
    }
    done: set[str] = set()
    for start in edges:
        # Iterative depth first: a chain as long as the file must not end in a RecursionError.
        path: list[str] = []
        stack: list[tuple[str, bool]] = [(start, False)]
        while stack:
            name, leaving = stack.pop()
            if leaving:
                done.add(path.pop())
            elif name in path:
                circle = [*path[path.index(name) :], name]
                yield Fault(
                    ("services", circle[0], "depends_on"),
                    f"is a circle ({' → '.join(circle)}), expected an order",
                )
            elif name not in done:
                path.append(name)
                stack.append((name, True))
                stack.extend((other, False) for other in reversed(edges[name]))


def _services(data: Mapping[str, Data]) -> Iterator[Fault]:
    services = mapping(data.get("services"))
    names = set(services)
    for name, service in services.items():
        if isinstance(service, dict):
            yield from _service(name, service, names)
    yield from _circles(services)
    if len(services) > MAX_SERVICES - 1:
        yield Fault(("services",), f"{len(services)} services, expected at most {MAX_SERVICES - 1}")
    count = sum(
        len(items(mapping(mapping(service).get(color)).get("endpoints")))
        for service in services.values()
        for color in ("blue", "green")
    )
    # Half: a replaced pool's cells stay taken until its last request has ended.
    if count > MAX_ENDPOINTS // 2:
        yield Fault(("services",), f"{count} endpoints, expected at most {MAX_ENDPOINTS // 2}")


def _routes(data: Mapping[str, Data]) -> Iterator[Fault]:
    services = mapping(data.get("services"))
    profiles = mapping(mapping(data.get("security")).get("profiles", {PAGE: {}}))
    routes = items(data.get("routes"))
    if not routes and len(services) > 1:
        yield Fault(
            ("routes",) if "routes" in data else (),
            f"no routes to {len(services)} services, expected at least one",
        )
    seen: dict[tuple[str | None, str], int] = {}
    for index, item in enumerate(routes):
        route = mapping(item)
        service = route.get("service")
        if isinstance(service, str) and services and service not in services:
            yield Fault(
                ("routes", index, "service"),
                f"{shown(service)} is no service, {suggestion(service, services)}",
            )
        profile = route.get("security")
        if isinstance(profile, str) and profile not in profiles:
            hint = suggestion(profile, profiles) if profiles else "none is under security.profiles"
            yield Fault(("routes", index, "security"), f"unknown security profile, {hint}")
        yield from route_faults(index, route, data)
        host = _parsed(parse_route_host, route.get("host"))
        path = _parsed(parse_route_path, route.get("path", "/"))
        if not route or path is None or (host is None and route.get("host") is not None):
            continue
        path = path.removesuffix("/")  # a final slash says nothing (``policy.route``)
        if (host, path) in seen:
            yield Fault(
                ("routes", index), f"has the same host and path as routes[{seen[host, path]}]"
            )
        seen.setdefault((host, path), index)


def _cache(data: Mapping[str, Data]) -> Iterator[Fault]:
    cache = mapping(data.get("cache"))
    try:
        size = parse_size(str(cache.get("size", Cache.model_fields["size"].default)))
        entry = parse_size(str(cache.get("entry", Cache.model_fields["entry"].default)))
    except ValueError:
        return  # the types have said so
    if entry > size // 8:
        here = ("cache", "entry") if "entry" in cache else ("cache", "size")
        yield Fault(here, "is no room for eight answers, expected entry to be at most size / 8")


def _steps(data: Mapping[str, Data]) -> Iterator[Fault]:
    last: float = 0.0
    steps = items(mapping(data.get("releases")).get("steps"))
    for index, item in enumerate(steps):
        weight = mapping(item).get("weight")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            return  # the types have said so
        here = ("releases", "steps", index, "weight")
        if weight <= last:
            yield Fault(here, f"{weight:g} follows {last:g}, expected rising weights above 0")
        elif index == len(steps) - 1 and _FINEST <= weight < _ALL:
            yield Fault(
                here,
                f"the last step is {weight:g}, expected 100: roles swap where the candidate "
                "carries everything",
            )
        last = weight


def cross_faults(data: Mapping[str, Data]) -> list[Fault]:
    """Return everything that is wrong between the keys of a configuration's data."""
    cohort = mapping(data.get("traffic")).get("cohort")
    return [
        *_listeners(data),
        *_admin(data),
        *_at_most_one(("traffic", "cohort"), cohort, "secret_file", "secret_env"),
        *_cache(data),
        *_services(data),
        *_routes(data),
        *browser_faults(data),
        *auth_faults(data),
        *limit_faults(data),
        *_steps(data),
    ]
