"""Upgrades as control tells of them: events, rows of the audit log, what ``status`` shows.

They happen to control, not in it: the supervisor's journal in the run folder is looked at, and each
step that the audit log does not have yet is told once, by whichever control process comes to it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING

from gateway.channel.upgrades import Journal
from gateway.control.store import AuditEntry, StoreError

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.channel.upgrades import Step
    from gateway.control.switchboard import Switchboard

log = logging.getLogger("gateway.control")


class UpgradeWatch:
    """Looks at the journal in ``run_dir``."""

    def __init__(self, run_dir: Path, switchboard: Switchboard) -> None:
        self._run_dir = run_dir
        self._switch = switchboard
        self._told: set[tuple[str, str]] = set()
        self._published: set[tuple[str, str]] = set()
        self.journal = Journal()

    async def look(self) -> None:
        """Take up the journal as it is now, and tell of what nobody has told of."""
        try:
            self.journal = await asyncio.to_thread(Journal.read, self._run_dir)
        except OSError as error:
            log.warning("what upgrades have come to cannot be read: %s", error)
            return
        steps = self.journal.steps
        self._published &= {(each.id, each.step) for each in steps}
        new = [each for each in steps if (each.id, each.step) not in self._told]
        self._told = {(each.id, each.step) for each in steps}
        for step in new:
            await self._tell(step)

    async def _tell(self, step: Step) -> None:
        entry = entry_of(step)
        store = self._switch.parts.store
        try:
            if await store.has_audit(entry):
                return  # by the control process before this one
            if (step.id, step.step) not in self._published:
                self._publish(step)
            async with self._switch.lock:
                await store.save(self._switch.state, [entry])
        except StoreError as error:
            self._told.discard((step.id, step.step))  # tried again at the next look
            log.warning("an upgrade is not in the audit log: %s", error)

    def _publish(self, step: Step) -> None:
        self._published.add((step.id, step.step))
        log.info("upgrade %s by %s: %s to %s %s", step.step, step.by, step.old, step.new, step.text)
        self._switch.parts.events.publish(
            "upgrade",
            **{"id": step.id, "step": step.step, "by": step.by, "from": step.old, "to": step.new},
            way_back=step.way_back,
            seconds=step.seconds,
            detail=step.text,
        )


def entry_of(step: Step) -> AuditEntry:
    """Return the audit row of one step."""
    after = {
        "id": step.id,
        "version": step.new,
        "way_back": step.way_back,
        "seconds": step.seconds,
        "detail": step.text,
    }
    return AuditEntry(
        at=step.at,
        actor=step.by,
        address="local",
        action=f"upgrade.{step.step}",
        before=json.dumps({"version": step.old}).encode(),
        after=json.dumps(after).encode(),
    )
