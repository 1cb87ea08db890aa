"""``gateway status``: one picture of services, pools and processes."""

from __future__ import annotations

from datetime import UTC, datetime

import click
from rich.text import Text

from gateway.admin import models
from gateway.cli.output import colored, console, duration, percent, say, table, talk, warn
from gateway.client.link import Link, talks_to_gateway

#: Names of a certificate that a table shows; --json has all of them.
FEW = 3


@click.command("status")
@click.option(
    "-v",
    "--verbose",
    is_flag=True,
    help="Also every endpoint and its last probe, the certificates, and what processes hold.",
)
@talks_to_gateway
def command(link: Link, verbose: bool) -> None:
    """Show services with their colors, weights and pools, and the gateway's processes."""

    def show(answer: models.StatusAnswer) -> None:
        _head(answer)
        console().print(table(["service", "state", "stable", "candidate", "blue", "green"],
                              [_service(service) for service in answer.services]))  # fmt: skip
        if verbose:
            _endpoints(answer)
            _certificates(answer)
        _processes(answer, verbose=verbose)
        _upgrade(answer)
        _remarks(answer)

    talk(link, lambda client: client.status(), show)


def _head(answer: models.StatusAnswer) -> None:
    """Print the line that everything else stands under."""
    release = f", release {answer.release}" if answer.release else ""
    say(
        f"gateway {answer.version}: {answer.mode}{release}, platform {answer.platform}, "
        f"traffic revision {answer.traffic_revision}, snapshot {answer.snapshot}"
    )
    say("")


def _service(service: models.ServiceStatus) -> list[str | Text]:
    """Return a service's row: roles with their weights, then its pools."""
    pools = {pool.color: _pool(pool) for pool in service.pools}
    stable = _share(service, service.stable, service.weights.stable)
    candidate = _share(service, service.candidate, service.weights.candidate)
    nothing = Text("no pool")
    return [
        service.name,
        _state(service),
        stable,
        candidate,
        pools.get("blue", nothing),
        pools.get("green", nothing),
    ]


def _share(service: models.ServiceStatus, color: str, share: float) -> Text:
    """Return a color with its share, and whom that goes to where the color is out."""
    text = colored(color).append(f" {percent(share)}", style="default")
    closed = {pool.color for pool in service.pools if pool.closed}
    others = {pool.color for pool in service.pools} - {color} - closed
    if share > 0 and color in closed and others:
        text.append(f", to {others.pop()}", style="red")
    return text


def _state(service: models.ServiceStatus) -> Text:
    """Return a service's state: ``up``, ``down, maintenance (300 s)``."""
    text = Text(service.state, style="" if service.state == "up" else "red")
    if service.maintenance is not None:
        text.append(f", maintenance ({service.maintenance:g} s)", style="default")
    return text


def _pool(pool: models.PoolStatus) -> Text:
    """Return a pool in a few words: ``2/2 up, generation 3, file``."""
    up = sum(endpoint.health == "up" for endpoint in pool.endpoints)
    busy = sum(endpoint.in_flight for endpoint in pool.endpoints)
    text = Text(f"{up}/{len(pool.endpoints)} up", style="" if up == len(pool.endpoints) else "red")
    rest = f", generation {pool.generation}, {pool.source}"
    if alone := sum(left_alone(endpoint) for endpoint in pool.endpoints):
        text.append(f", {alone} left alone", style="red")
    if busy:
        rest += f", {busy} in flight"
    if pool.closed:
        rest += ", isolated" if pool.isolated else ", closed"
    if pool.waiting:
        rest += f", waits for {', '.join(pool.waiting)}"
    return text.append(rest, style="default")


def left_alone(endpoint: models.EndpointStatus) -> bool:
    """Tell whether requests pass an endpoint by, whatever its probes say."""
    return endpoint.breaker != "closed" or endpoint.ejected


def _endpoints(answer: models.StatusAnswer) -> None:
    """Print every endpoint with what its probes last saw."""
    rows = [
        [
            endpoint.id,
            endpoint.url,
            endpoint.health,
            f"{endpoint.breaker}, ejected" if endpoint.ejected else endpoint.breaker,
            str(endpoint.in_flight),
            _probes(endpoint),
        ]
        for service in answer.services
        for pool in service.pools
        for endpoint in pool.endpoints
    ]
    say("")
    columns = ["endpoint", "url", "health", "breaker", "in flight", "last probes"]
    console().print(table(columns, rows))


def _certificates(answer: models.StatusAnswer) -> None:
    """Print every certificate with its names and its end."""
    rows = [
        [
            each.place,
            _names(each.names),
            datetime.fromtimestamp(each.expires, UTC).strftime("%Y-%m-%d %H:%MZ"),
            Text("its files are refused", style="red") if each.refused else "served",
        ]
        for each in answer.certificates
    ]
    if rows:
        say("")
        console().print(table(["certificate", "for", "until", "state"], rows))


def _names(names: list[str]) -> str:
    """Return what a certificate is for, in a few words."""
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more or "no name"


def _probes(endpoint: models.EndpointStatus) -> str:
    """Return the last probe of each level: what failed, or how long it took."""
    return "; ".join(_probe(probe) for probe in endpoint.probes)


def _probe(probe: models.Probe) -> str:
    """Return one probe in a few words."""
    if probe.ok:
        return f"{probe.level} ok {probe.duration_ms:.0f} ms"
    body = f" {probe.body[:60]!r}" if probe.body else ""
    return f"{probe.level} failed {probe.age:.0f} s ago: {probe.detail}{body}"


def _processes(answer: models.StatusAnswer, *, verbose: bool) -> None:
    """Print the gateway's own processes, with ``verbose`` also what they hold."""
    rows = [
        [
            process.role if process.slot is None else f"{process.role} {process.slot}",
            str(process.pid),
            process.state,
            duration(process.uptime),
            str(process.snapshot) if process.role == "worker" else "",
            str(process.connections) if process.role == "worker" else "",
            *(_vitals(process) if verbose else ()),
        ]
        for process in answer.processes
    ]
    say("")
    columns = ["process", "pid", "state", "up", "snapshot", "connections"]
    if verbose:
        columns += ["memory", "descriptors", "tasks", "timers", "upstream", "stall"]
    console().print(table(columns, rows))


def _vitals(process: models.ProcessStatus) -> list[str]:
    """Return what a process holds: ``61 MiB``, ``48``, ``3``, ``120``, ``4 busy, 12 idle``."""
    counts = (process.descriptors, process.tasks, process.timers)
    return [
        "" if process.memory is None else f"{process.memory / (1 << 20):.0f} MiB",
        *("" if count is None else str(count) for count in counts),
        ""
        if process.upstream_busy is None
        else f"{process.upstream_busy} busy, {process.upstream_idle or 0} idle",
        "" if process.stall is None else f"{process.stall * 1e3:.0f} ms",
    ]


def _upgrade(answer: models.StatusAnswer) -> None:
    """Print what the last upgrade has come to."""
    upgrade = answer.upgrade
    if upgrade is None:
        return
    when = datetime.fromtimestamp(upgrade.at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    to = f" to {upgrade.after}" if upgrade.after else ""
    say("")
    say(
        f"last upgrade: {upgrade.step.replace('_', ' ')} {when}, from {upgrade.before}{to}, "
        f"by {upgrade.by}" + (f": {upgrade.detail}" if upgrade.detail else "")
    )


def _remarks(answer: models.StatusAnswer) -> None:
    """Say on standard error what somebody should look at."""
    if answer.forced_stable:
        warn("everything is forced to stable by `gateway rollback --local` (lift: --local --undo)")
    for service in answer.services:
        if service.dependency_down:
            warn(f"{service.name}: {', '.join(service.dependency_down)}, which it needs, is down")
    for drift in answer.drift:
        warn(
            f"{drift.service}: {drift.field} is {drift.store} by API, {drift.file} in the file"
            " (the API wins)"
        )
    for warning in answer.warnings:
        warn(warning)
