"""What becomes of failed logins: a line in the log, an event, and a row of the audit log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from gateway.control.store import AuditEntry, StoreError

if TYPE_CHECKING:
    from gateway.admin.logins import Report
    from gateway.control.switchboard import Switchboard

log = logging.getLogger("gateway.admin")


async def note_failed_logins(switch: Switchboard, report: Report) -> None:
    """Write one row for all of a report; no token is ever part of it."""
    addresses = dict(report.addresses)
    logins = f"{report.attempts} failed login{'' if report.attempts == 1 else 's'}"
    log.warning("%s from %s", logins, ", ".join(addresses))
    switch.parts.events.publish(
        "logins-failed", attempts=report.attempts, refused=report.refused, addresses=addresses
    )
    entry = AuditEntry(
        at=switch.parts.wall(),
        actor="nobody",
        address=report.addresses[0][0] if len(addresses) == 1 else "several",
        action="login.failed",
        after=msgspec.json.encode(
            {
                "attempts": report.attempts,
                "refused": report.refused,
                "addresses": addresses,
                "others": report.others,
            }
        ),
    )
    try:
        async with switch.lock:
            await switch.parts.store.save(switch.state, [entry])
    except StoreError as error:
        log.warning("failed logins are not in the audit log: %s", error)
