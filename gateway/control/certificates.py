"""Certificates that are in force, watched: replaced when their files change, told before they end.

ACME clients replace files in ways of their own: they rename new ones into place, move a symbolic
link, or write the certificate first and the key a moment later. So what is watched is what a path
leads to in the end, by number, size and time; a pair is taken only when it fits; and one that does
not is looked at again at every turn, while the pair in force goes on serving.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from gateway.config.certificates import PairError, end_in_words, ends_soon, read_pair
from gateway.control.switchboard import Caller

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.config.snapshot import ListenerTls, TlsCertificate
    from gateway.control.settings import Settings
    from gateway.control.switchboard import Switchboard

log = logging.getLogger("gateway.control")

#: Seconds between two looks at the files.
EVERY = 3.0

_SERVED_ON = "the certificate before it is served on"

#: What a file is told by: device, number, size, times in nanoseconds. None: it is not there.
Mark = tuple[int, int, int, int, int]
Marks = tuple[Mark | None, Mark | None]


def in_force(settings: Settings) -> Iterator[TlsCertificate]:
    """Yield the certificates that are served with, the admin API's last."""
    for listener in settings.template.listeners:
        if listener.tls is not None:
            yield from listener.tls.certificates
    if settings.admin_tls is not None:
        yield from settings.admin_tls.certificates


def with_certificates(settings: Settings, fresh: dict[str, TlsCertificate]) -> Settings:
    """Return the settings with other certificates at their places."""

    def put(tls: ListenerTls | None) -> ListenerTls | None:
        if tls is None:
            return None
        return msgspec.structs.replace(
            tls, certificates=tuple(fresh.get(each.place, each) for each in tls.certificates)
        )

    listeners = tuple(
        msgspec.structs.replace(each, tls=put(each.tls)) for each in settings.template.listeners
    )
    return dataclasses.replace(
        settings,
        template=msgspec.structs.replace(settings.template, listeners=listeners),
        admin_tls=put(settings.admin_tls),
    )


@dataclasses.dataclass(slots=True)
class Found:
    """What a look at the files came to, by places."""

    #: What has changed and can be served.
    fresh: dict[str, TlsCertificate] = dataclasses.field(default_factory=dict)
    #: Why what stands there cannot be.
    trouble: dict[str, str] = dataclasses.field(default_factory=dict)
    #: Whose files were read and fit.
    right: set[str] = dataclasses.field(default_factory=set)


class CertificateWatch:
    """``wall`` is seconds since the epoch; ``admin`` is told what the admin API serves with."""

    def __init__(
        self,
        switch: Switchboard,
        wall: Callable[[], float],
        admin: Callable[[Settings], None],
    ) -> None:
        self._switch = switch
        self._wall = wall
        self._admin = admin
        #: By place: the files' marks, and the digest of the pair that was read under them.
        self._marks: dict[str, tuple[Marks, bytes]] = {}
        #: By place: why what stands in the files is not served.
        self._trouble: dict[str, str] = {}
        self._alerted: set[tuple[str, int, int]] = set()
        #: One look at a time: what an earlier one found must not overrule a later one's.
        self._looking = asyncio.Lock()

    async def watch(self) -> None:
        """Look every few seconds, until cancelled."""
        while True:
            try:
                await self.turn()
            except Exception:  # whatever it is, the next renewal has to be seen
                log.exception("a look at the certificates failed")
            await asyncio.sleep(EVERY)

    async def turn(self) -> None:
        """Look once."""
        async with self._looking:
            await self._turn()

    async def _turn(self) -> None:
        certificates = list(in_force(self._switch.settings))
        # In a thread: a slow disk stalls no loop.
        found = await asyncio.to_thread(self._look, certificates) if certificates else Found()
        self._tell_trouble(found, {each.place for each in certificates})
        if found.fresh:
            await self._serve(found.fresh)
        self._tell_ends()
        self._admin(self._switch.settings)

    @property
    def refused(self) -> frozenset[str]:
        """The places in whose files stands what is not served."""
        return frozenset(self._trouble)

    @property
    def warnings(self) -> list[str]:
        """What an operator has to know: what ends soon, what is not served."""
        now = self._wall()
        ends = [
            f"{each.place}: {words}"
            for each in in_force(self._switch.settings)
            if (words := end_in_words(each, now))
        ]
        return ends + [f"{place}: {why}" for place, why in sorted(self._trouble.items())]

    def _look(self, certificates: list[TlsCertificate]) -> Found:
        """Read what has changed, and what was of no use before. Blocking."""
        found = Found()
        for each in certificates:
            # Before they are read: what changes meanwhile is seen at the next turn.
            marks = (_mark(each.certificate_file), _mark(each.key_file))
            # What was read under these marks need not be in force: a reload that had read the files
            # before they changed, and waited for its turn since, has put the old pair back.
            known = (marks, _digest(each)) == self._marks.get(each.place)
            if known and each.place not in self._trouble:
                continue
            try:
                pair = read_pair(each.place, each.certificate_file, each.key_file)
            except PairError as error:
                file = each.certificate_file if error.which == "certificate" else each.key_file
                found.trouble[each.place] = f"{file}: {error}; {_SERVED_ON}"
                continue
            except Exception as error:
                # One place's surprise must not keep the others' renewals from being seen.
                if each.place not in self._trouble:
                    log.exception("%s: a look at the files failed", each.place)
                why = f"a look at the files failed ({type(error).__name__}); {_SERVED_ON}"
                found.trouble[each.place] = why
                continue
            self._marks[each.place] = (marks, _digest(pair))
            found.right.add(each.place)
            if pair != each:
                found.fresh[each.place] = pair
        return found

    def _tell_trouble(self, found: Found, places: set[str]) -> None:
        """Say once what is not served and why, and once that it is right again."""
        for place in found.right & self._trouble.keys():
            log.warning("%s: the files are right again", place)
            self._alert(place, "info", "the files are right again")
        for place, why in found.trouble.items():
            if self._trouble.get(place) != why:
                log.error("%s: %s", place, why)
                self._alert(place, "warning", why)
        stays = {
            place: why
            for place, why in self._trouble.items()
            if place in places and place not in found.right
        }
        self._trouble = stays | found.trouble

    async def _serve(self, fresh: dict[str, TlsCertificate]) -> None:
        """Put certificates into force on every worker."""
        switch = self._switch
        async with switch.lock:
            current = {each.place: each for each in in_force(switch.settings)}
            # A reload may have come in between, with other files at these places.
            fresh = {
                place: each
                for place, each in fresh.items()
                if place in current
                and (each.certificate_file, each.key_file)
                == (current[place].certificate_file, current[place].key_file)
            }
            if not fresh:
                return  # neither an audit row nor an event: nothing is another
            settings = with_certificates(switch.settings, fresh)
            caller = Caller(actor="certificates", address="file")
            await switch.renew(caller, "certificates.renew", settings)
        changes = [f"{place}: renewed, good until {_day(each)}" for place, each in fresh.items()]
        log.info("; ".join(changes))
        switch.parts.events.publish("config", changes=changes)

    def _tell_ends(self) -> None:
        """Publish an alert for each threshold that a certificate passes, once."""
        now = self._wall()
        passed = set()
        for each in in_force(self._switch.settings):
            threshold = ends_soon(each.expires, now)
            if threshold is None:
                continue
            key = (each.place, each.expires, threshold)
            passed.add(key)
            if key in self._alerted:
                continue
            words = end_in_words(each, now)
            log.warning("%s: %s", each.place, words)
            self._alert(
                each.place,
                "critical" if threshold <= 1 else "warning",
                words,
                names=list(each.names[:10]),
                expires=each.expires,
                threshold_days=threshold,
            )
        self._alerted = passed

    def _alert(self, place: str, severity: str, detail: str, **more: object) -> None:
        self._switch.parts.events.publish(
            "alert",
            severity=severity,
            about="certificate",
            certificate=place,
            detail=detail,
            **more,
        )


def _digest(pair: TlsCertificate) -> bytes:
    """Tell pairs apart: no second copy of a key is kept for that."""
    return hashlib.sha256(pair.chain + pair.key).digest()


def _mark(name: str) -> Mark | None:
    try:
        told = Path(name).stat()  # of what a symbolic link leads to
    except OSError:
        return None
    return (told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns)


def _day(certificate: TlsCertificate) -> str:
    return datetime.datetime.fromtimestamp(certificate.expires, datetime.UTC).strftime("%Y-%m-%d")
