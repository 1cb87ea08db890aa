"""Services in the state store: the rows, and what reads and writes them.

Runs in the store's thread, inside of its transactions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gateway.control import releaserows
from gateway.control.state import PoolState, ServiceState, State

if TYPE_CHECKING:
    import sqlite3


def read_state(db: sqlite3.Connection) -> State | None:
    """Return the state that a database has, None where it is new.

    Raises sqlite3.Error, and msgspec.MsgspecError where its rows make none.
    """
    meta = db.execute("SELECT revision, salt, release FROM meta").fetchone()
    if meta is None:
        return None
    pools: dict[tuple[str, str], PoolState] = {}
    for service, color, generation, source, endpoints in db.execute(
        "SELECT service, color, generation, source, endpoints FROM pool"
    ):
        pools[service, color] = PoolState(
            generation=generation,
            source=source,
            endpoints=msgspec.json.decode(endpoints, type=tuple[str, ...]),
        )
    services = tuple(
        service_of(row, pools)
        for row in db.execute(
            "SELECT name, stable, weight, previous, drained, isolated, generation,"
            " maintenance FROM service ORDER BY name"
        )
    )
    return State(
        revision=meta[0],
        salt=meta[1],
        release=meta[2],
        services=with_forced(db, services),
        run=releaserows.last_release(db),
    )


def save_service(db: sqlite3.Connection, service: ServiceState) -> None:
    """Keep one service with its pools."""
    db.execute(
        "INSERT INTO service (name, stable, weight, previous, drained, isolated, generation,"
        " maintenance) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET"
        " stable = excluded.stable, weight = excluded.weight, previous = excluded.previous,"
        " drained = excluded.drained, isolated = excluded.isolated,"
        " generation = excluded.generation, maintenance = excluded.maintenance",
        (
            service.name,
            service.stable,
            service.weight,
            service.previous,
            ",".join(service.drained),
            ",".join(service.isolated),
            service.generation,
            service.maintenance,
        ),
    )
    for color, pool in (("blue", service.blue), ("green", service.green)):
        db.execute(
            "INSERT INTO pool VALUES (?, ?, ?, ?, ?) ON CONFLICT (service, color) DO UPDATE SET"
            " generation = excluded.generation, source = excluded.source,"
            " endpoints = excluded.endpoints",
            (
                service.name,
                color,
                pool.generation,
                pool.source,
                msgspec.json.encode(pool.endpoints).decode(),
            ),
        )


def save_forced(db: sqlite3.Connection, service: ServiceState) -> None:
    """Keep which of its breakers were opened by hand."""
    db.execute("DELETE FROM forced_breaker WHERE service = ?", (service.name,))
    db.executemany(
        "INSERT INTO forced_breaker VALUES (?, ?)",
        [(service.name, endpoint) for endpoint in service.forced],
    )


def with_forced(
    db: sqlite3.Connection, services: tuple[ServiceState, ...]
) -> tuple[ServiceState, ...]:
    """Return services with the breakers of each that were opened by hand."""
    forced: dict[str, list[str]] = {}
    for service, endpoint in db.execute(
        "SELECT service, endpoint FROM forced_breaker ORDER BY endpoint"
    ):
        forced.setdefault(service, []).append(endpoint)
    return tuple(
        msgspec.structs.replace(each, forced=tuple(forced.get(each.name, ()))) for each in services
    )


ServiceRow = tuple[str, str, int, str, str, str, int, float | None]


def service_of(row: ServiceRow, pools: dict[tuple[str, str], PoolState]) -> ServiceState:
    """Return one service. Raises msgspec.ValidationError where its row makes none."""
    name, stable, weight, previous, drained, isolated, generation, maintenance = row
    return msgspec.convert(
        {
            "name": name,
            "stable": stable,
            "weight": weight,
            "previous": previous,
            "drained": [color for color in drained.split(",") if color],
            "isolated": [color for color in isolated.split(",") if color],
            "generation": generation,
            "maintenance": maintenance,
            "blue": pools.get((name, "blue"), PoolState()),
            "green": pools.get((name, "green"), PoolState()),
        },
        ServiceState,
    )
