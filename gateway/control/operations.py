"""The calls that take time: a new build on trial, a drain, a reload."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.config.addresses import parse_endpoint
from gateway.config.snapshot import COLORS, other
from gateway.control import merge, pooldesk
from gateway.control.desk import Refused, color_of, one
from gateway.control.settings import SettingsError
from gateway.control.state import PoolState
from gateway.control.switchboard import NAMES_BOUND, Written
from gateway.health.machine import Health
from gateway.health.policy import HealthPolicy
from gateway.health.prober import Monitor, Target

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.config.snapshot import Color, Endpoint
    from gateway.control.desk import ColorOrRole
    from gateway.control.hub import Applied
    from gateway.control.merge import Difference
    from gateway.control.settings import Loader, Settings
    from gateway.control.state import ServiceState, State
    from gateway.control.switchboard import Caller, Switchboard
    from gateway.health.monitor import PoolCheck

#: Seconds between two looks at what is in flight.
DRAIN_LOOK = 0.05
#: Seconds that a drain keeps for tunnels to end in order: workers look every second, a WebSocket's
#: client has two for its answer.
TUNNELS_MARGIN = 4.0
#: Seconds between two looks at a new build's health.
TRIAL_LOOK = 0.05


class UnhealthyError(Exception):
    """A new build that did not become healthy; what was there stays."""

    def __init__(self, detail: str, monitors: list[Monitor]) -> None:
        super().__init__(detail)
        self.monitors = monitors


class StillInFlightError(Exception):
    """A drain that ran out of time. The color stays closed."""

    def __init__(self, color: Color, in_flight: int) -> None:
        super().__init__(f"{in_flight} requests or tunnels are still in flight to {color}")
        self.in_flight = in_flight


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPool:
    """A pipeline's new build. ``wait`` in seconds, None: not waited for; ``expect`` is JSON."""

    service: str
    slot: ColorOrRole
    #: Canonical URLs.
    endpoints: tuple[str, ...]
    wait: float | None
    expect: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded:
    """What a reload came to."""

    changes: tuple[str, ...]
    drift: tuple[Difference, ...]
    number: int
    applied: Applied | None = None


class Operations:
    """Long calls over one switchboard. No lock is held while they wait."""

    def __init__(self, switchboard: Switchboard, load: Loader) -> None:
        self._board = switchboard
        self._load = load
        self._on_trial: set[tuple[str, Color]] = set()
        self._stopping = False
        #: Given the settings after a reload: what serves with them besides the workers.
        self.reloaded: Callable[[Settings], None] = lambda settings: None

    def stop(self) -> None:
        """Have builds on trial in place go: nobody would wait for them after this process."""
        self._stopping = True

    # --- pools ------------------------------------------------------------------------------------

    async def put_pool(self, caller: Caller, new: NewPool) -> tuple[Written, Color, float]:
        """Put a new build into the candidate's slot once it is healthy.

        Returns what was written, the slot's color, and the seconds waited. Raises UnhealthyError
        (nothing has changed) and as ``Switchboard.write``.
        """
        switch, parts = self._board, self._board.parts
        one(switch.state, new.service)
        switch.check_revision(caller)
        color = pooldesk.check_pool_write(switch.state, parts.facts, new.service, new.slot)
        self._check_expect(new)
        self._check_reached(new, color)
        if (new.service, color) in self._on_trial:
            raise Refused("pool-busy", f"another new build for {color} is being waited for")
        self._on_trial.add((new.service, color))
        began = parts.clock()
        try:
            monitors = await self._try(new, color) if new.wait is not None else []
            written, former = await self._install(caller, new, color, monitors)
            if new.wait is not None:
                stood = one(written.state, new.service).pool(color).generation
                await self._stand(caller, new, color, stood, former, began + new.wait)
            waited = parts.clock() - began
        finally:
            self._on_trial.discard((new.service, color))
        return written, color, waited

    def _check_expect(self, new: NewPool) -> None:
        if new.expect is None:
            return
        if self._policy(new.service).http is None:
            raise Refused(
                "nothing-to-expect-of",
                f"{new.service} has no health path (L2) whose answer could be compared",
                field="expect",
            )
        if new.wait is None:
            raise Refused("nothing-to-expect-of", "expect needs a wait", field="expect")

    def _check_reached(self, new: NewPool, color: Color) -> None:
        """Refuse to wait for an integration check (L4) where no request gets to."""
        checked = new.wait is not None and self._policy(new.service).integration is not None
        if checked and color in one(self._board.state, new.service).isolated:
            raise Refused(
                "pool-isolated",
                f"{color} of {new.service} is isolated: its integration check (L4) cannot be run",
                hint=f"DELETE /v1/services/{new.service}/isolate?color={color} lifts it",
            )

    def _policy(self, service: str) -> HealthPolicy:
        settings = self._board.settings.of(service)
        return settings.health if settings is not None else HealthPolicy()

    async def _try(self, new: NewPool, color: Color) -> list[Monitor]:
        """Probe the new endpoints, which nothing is sent to yet, until all are healthy."""
        service = one(self._board.state, new.service)
        pool = PoolState(generation=service.generation + 1, endpoints=new.endpoints)
        trial = merge.endpoints_of(new.service, color, pool, lambda _: -1)
        policy = self._policy(new.service)
        monitors, good = await self._board.parts.prober.trial(
            [Target(endpoint, policy, new.service, color, pool.generation) for endpoint in trial],
            seconds=new.wait or 0.0,
            accept=lambda monitor: unexpected(monitor, new.expect),
        )
        if not good:
            faults = [f"{each.target.endpoint.url}: {fault(each, new.expect)}" for each in monitors]
            raise UnhealthyError(
                f"the new build was not healthy within {new.wait:g} s; "
                f"what was in {color} stays. " + "; ".join(each for each in faults if each),
                monitors,
            )
        return monitors

    async def _install(
        self, caller: Caller, new: NewPool, color: Color, monitors: list[Monitor]
    ) -> tuple[Written, ServiceState]:
        """Put a new build into its slot; returns the service as it was before, too."""
        switch = self._board
        await switch.parts.resolver.prepare(_hosts(new.endpoints), seconds=NAMES_BOUND)
        async with switch.lock:
            former = one(switch.state, new.service)
            outcome = pooldesk.put_pool(
                switch.state,
                switch.parts.facts,
                new.service,
                color,
                new.endpoints,
                switch.parts.fresh,
            )
            seeds = _seeds(monitors, outcome.state, new.service, color)
            number, began = await switch.commit(caller, "pool.put", outcome.state, seeds=seeds)
            state = switch.state
        applied = await switch.parts.hub.acknowledged(number, began=began)
        written = Written(state=state, changed=True, applied=applied, touched=(new.service,))
        return written, former

    async def _stand(
        self,
        caller: Caller,
        new: NewPool,
        color: Color,
        stood: int,
        former: ServiceState,
        deadline: float,
    ) -> None:
        """Wait for a new build's integration check (L4), in place but without any weight.

        Through the gateway is the only way there, so the build stands in its slot meanwhile, not
        yet seen healthy: traffic is not moved there without force. ``stood`` is its generation.
        Raises UnhealthyError once the former pool is back in the slot.
        """
        switch, prober = self._board, self._board.parts.prober
        ids = [
            merge.endpoint_id(new.service, color, stood, position)
            for position in range(len(new.endpoints))
        ]
        check = prober.integration.check(new.service, color)
        if check is None:
            return
        while check.closed or not all(prober.health(each) is Health.UP for each in ids):
            late = switch.parts.clock() >= deadline
            if late or self._stopping or check.generation != stood:
                break
            await switch.parts.sleep(TRIAL_LOOK)
        else:
            return
        monitors = [found for each in ids if (found := prober.monitor(each)) is not None]
        written = await switch.write(
            replace(caller, revisions=None),  # its If-Match was spent on the build itself
            "pool.put-back",
            lambda state, _: pooldesk.put_back(
                state,
                new.service,
                color,
                stood,
                former,
                self._from_file(new.service, color),
                switch.parts.fresh,
            ),
        )
        stays = (
            f"what was in {color} is back"
            if written.changed
            else f"it stays in {color}, which has moved on meanwhile"
        )
        why = self._hindrance(check)
        faults = [f"{each.target.endpoint.url}: {fault(each, None)}" for each in monitors]
        what = "before control was stopped" if self._stopping else f"within {new.wait:g} s"
        raise UnhealthyError(
            f"the new build was not healthy {what}; {stays}. "
            + (why or "; ".join(each for each in faults if not each.endswith(": "))),
            monitors,
        )

    def _from_file(self, service: str, color: Color) -> tuple[str, ...]:
        settings = self._board.settings.of(service)
        return settings.endpoints(color) if settings is not None else ()

    def _hindrance(self, check: PoolCheck) -> str:
        """Say what keeps a pool's integration check from being run; empty where nothing does."""
        integration = self._board.parts.prober.integration
        if integration.door is None:
            return "its integration check has no way in: the gateway has no listener"
        if check.closed:
            return f"its integration check is not run: {check.color} is drained or isolated"
        below = integration.below(check.service, check.color)
        waits = [*below.down, *below.unsettled]
        return f"its integration check waits for {', '.join(waits)}" if waits else ""

    async def drain(
        self, caller: Caller, service: str, slot: ColorOrRole, seconds: float
    ) -> tuple[Written, Color, float]:
        """Close a slot; return once nothing is in flight there.

        Requests have all of ``seconds``. A candidate's WebSockets and event streams have the
        service's ``drain_timeout``, or as much of ``seconds`` as lets them end in order.
        Raises StillInFlightError (the slot stays closed) and as ``Switchboard.write``.
        """
        switch = self._board
        began = switch.parts.clock()
        color = color_of(one(switch.state, service), slot)
        patience = max(seconds - TUNNELS_MARGIN, seconds / 2)
        until = began + min(self._drain_timeout(service), patience)
        written = await switch.write(
            caller,
            "pool.drain",
            lambda state, _: pooldesk.drain(state, service, color, switch.parts.fresh, until),
        )
        deadline = began + seconds
        while (left := self.in_flight(service, color)) > 0:
            if switch.parts.clock() >= deadline:
                raise StillInFlightError(color, left)
            await switch.parts.sleep(DRAIN_LOOK)
        return written, color, switch.parts.clock() - began

    def _drain_timeout(self, service: str) -> float:
        served = self._board.parts.hub.topology.services
        return next((each.drain_timeout for each in served if each.name == service), 0.0)

    def in_flight(self, service: str, color: Color) -> int:
        """How many requests and tunnels are in flight to a pool."""
        pool = self._board.parts.hub.topology.pool(service, color)
        if pool is None:
            return 0
        board = self._board.parts.board
        return sum(board.endpoint_in_flight(endpoint.cell) for endpoint in pool.endpoints)

    # --- reload -----------------------------------------------------------------------------------

    async def reload(self, caller: Caller) -> Reloaded:
        """Read the file again and put it into force.

        Raises SettingsError (the old one stays) and as ``Switchboard.write``.
        """
        switch = self._board
        # The file, and files that it names, are read in a thread: a slow disk stalls no loop.
        settings = await asyncio.to_thread(self._load)
        new_hosts = [url for each in settings.services for url in (*each.blue, *each.green)]
        try:
            await asyncio.gather(
                switch.parts.resolver.prepare(_hosts(new_hosts), seconds=NAMES_BOUND),
                switch.expect_keys(settings.template.auth),
            )
            return await self._put_into_force(caller, settings)
        finally:
            switch.settle_keys()

    async def _put_into_force(self, caller: Caller, settings: Settings) -> Reloaded:
        switch = self._board
        async with switch.lock:
            switch.check_revision(caller)
            kept = await switch.parts.store.load()
            state = merge.merged(settings, _overlaid(kept, switch.state), switch.parts.fresh)
            _check_release(switch.state, state)
            changes = differences(switch.settings, settings, switch.state, state)
            drift = tuple(merge.drift(settings, state))
            caller = replace(caller, changes=tuple(changes))
            if not changes:
                # What is told nowhere (where a secret is read from) is taken all the same.
                switch.settings = settings
                number = switch.parts.hub.number
                return Reloaded(changes=(), drift=drift, number=number)
            number, began = await switch.commit(caller, "config.reload", state, settings=settings)
        self.reloaded(switch.settings)
        switch.parts.events.publish("config", changes=list(changes))
        applied = await switch.parts.hub.acknowledged(number, began=began)
        return Reloaded(changes=tuple(changes), drift=drift, number=number, applied=applied)


def _overlaid(kept: State | None, current: State) -> State:
    """Return the state in force with services that only the store remembers behind it."""
    names = {service.name for service in current.services}
    others = tuple(each for each in (kept.services if kept else ()) if each.name not in names)
    return msgspec.structs.replace(current, services=current.services + others)


def _check_release(before: State, after: State) -> None:
    """Refuse to take away what a release has in its hands. Raises SettingsError."""
    run = before.run
    if run is None or run.over:
        return
    faults = []
    for part in run.parts:
        service = after.of(part.service)
        if service is None:
            faults.append((f"services.{part.service}", f"release {run.id} is under way with it"))
            continue
        for color, generation in (
            (part.candidate, part.generation),
            (other(part.candidate), part.stable_generation),
        ):
            if service.pool(color).generation != generation:
                faults.append(
                    (
                        f"services.{part.service}.{color}.endpoints",
                        f"release {run.id} is under way with this pool",
                    )
                )
    if faults:
        raise SettingsError(tuple(faults))


def _hosts(urls: tuple[str, ...] | list[str]) -> list[str]:
    return [parse_endpoint(url).host for url in urls]


def _seeds(monitors: list[Monitor], state: State, service: str, color: Color) -> list[Monitor]:
    """Give a trial's monitors the ids that their endpoints have in force."""
    pool = one(state, service).pool(color)
    endpoints: tuple[Endpoint, ...] = merge.endpoints_of(service, color, pool, lambda _: -1)
    for monitor, endpoint in zip(monitors, endpoints, strict=False):
        monitor.target = Target(
            endpoint,
            monitor.target.policy,
            service=service,
            color=color,
            generation=pool.generation,
        )
    return monitors


def fault(monitor: Monitor, expect: Any) -> str:
    """Say what is wrong with an endpoint on trial; empty where nothing is."""
    for result in monitor.results():
        if not result.good:
            return f"{result.level}: {result.detail}"
    if not monitor.last:
        return "not probed in time"
    if monitor.pool is not None and monitor.pool.last is None:
        return "L4: not run in time"
    return unexpected(monitor, expect)


def unexpected(monitor: Monitor, expect: Any) -> str:
    """Say how an endpoint's health body differs from what the caller expects."""
    if expect is None:
        return ""
    result = monitor.last.get("L2")
    if result is None:
        return "it has not answered yet"
    try:
        found = msgspec.json.decode(result.body)
    except (msgspec.DecodeError, RecursionError):
        return "the health answer is not JSON"
    return "" if subset(expect, found) else f"the health answer is not as expected: {expect!r}"


def subset(wanted: Any, found: Any) -> bool:
    """Tell whether ``wanted`` is in ``found``: objects by their keys, all else exactly."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(
            key in found and subset(value, found[key]) for key, value in wanted.items()
        )
    if isinstance(wanted, bool) or isinstance(found, bool):
        return wanted is found
    return bool(wanted == found)


def differences(old: Settings, new: Settings, before: State, after: State) -> list[str]:
    """Say in words what a reload changes."""
    said = []
    old_names = {each.name for each in old.services}
    new_names = {each.name for each in new.services}
    said += [f"service {name}: removed" for name in sorted(old_names - new_names)]
    said += [f"service {name}: added" for name in sorted(new_names - old_names)]
    for service in after.services:
        former = before.of(service.name)
        for color in COLORS:
            if former is not None and former.pool(color) != service.pool(color):
                count = len(service.pool(color).endpoints)
                said.append(f"service {service.name}: {color} has {count} other endpoints")
    said += _settings_differences(old, new, old_names & new_names)
    fixed = dict(old.fixed)
    for key, value in new.fixed:
        if fixed.get(key) != value:
            said.append(f"{key}: {value} (in force after an upgrade or a restart, not now)")
    return said


def _settings_differences(old: Settings, new: Settings, common: set[str]) -> list[str]:
    old_services = {each.name: each for each in old.template.services}
    said = [
        f"service {service.name}: changed"
        for service in new.template.services
        if service.name in common
        and (
            service != old_services.get(service.name)
            or _probing(old, service.name) != _probing(new, service.name)
        )
    ]
    said += [
        f"{name}: changed"
        for name in new.template.__struct_fields__
        if name not in _TOLD_APART and getattr(old.template, name) != getattr(new.template, name)
    ]
    if old.releases != new.releases or _triggers(old, common) != _triggers(new, common):
        said.append("releases: changed, for the next one; one under way keeps its plan")
    if old.tokens != new.tokens:
        said.append("admin.tokens: changed")
    if old.admin_hosts != new.admin_hosts:
        said.append("admin.hosts: changed")
    if old.admin_tls is not None and new.admin_tls is not None:  # else told as what a restart takes
        if old.admin_tls != new.admin_tls:
            said.append("admin.tls: changed")
        callers = (old.client_ca, old.client_ca_file), (new.client_ca, new.client_ca_file)
        if callers[0] != callers[1]:
            said.append("admin.tls.client_ca: changed")
    return said


_TOLD_APART = frozenset({"number", "services", "pools"})


def _triggers(settings: Settings, names: set[str]) -> list[object]:
    return [each.triggers for each in settings.services if each.name in names]


def _probing(settings: Settings, name: str) -> HealthPolicy | None:
    service = settings.of(name)
    return service.health if service is not None else None
