"""Fallbacks and error pages of a file: their files, read once and bounded, and what is wrong.

Works on the data as it stands in the file, like ``cross``. Contents travel to the workers in the
snapshot, so that a worker that starts while control is dead has them too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.config.cross import items, mapping
from gateway.config.faults import Fault
from gateway.config.files import read_bounded, reason
from gateway.config.scalars import format_size, shown
from gateway.config.templates import TRIAL, Template, is_json, is_template, media_type

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gateway.config.keys import Place

#: Octets of one file, and of all of them together: every worker holds them in memory.
MAX_PAGE = 1024 * 1024
MAX_PAGES = 16 * 1024 * 1024

#: RFC 9110 section 9.2.1.
_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


class PageReader:
    """Reads the files that answers are made of, and keeps what is wrong in ``faults``."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self._total = 0

    def read(self, data: Mapping[str, object]) -> dict[str, bytes]:
        """Return the contents of all files that ``data`` names, by name; each is read once."""
        pages: dict[str, bytes] = {}
        told: dict[str, str] = {}
        for place, section in _sections(data):
            name = section.get("file")
            if not isinstance(name, str) or not name or "\0" in name:
                continue  # the types have said so
            here = (*place, "file")
            if name not in pages and name not in told:
                try:
                    pages[name] = self._read(name)
                except ValueError as error:
                    told[name] = str(error)
            if name in told:
                self.faults.append(Fault(here, told[name]))
            else:
                self._check(here, section, name, pages[name])
        return pages

    def _read(self, name: str) -> bytes:
        """Return one file's octets. Raises ValueError where it is of no use."""
        try:
            octets = read_bounded(Path(name), MAX_PAGE)
        except OSError as error:
            raise ValueError(
                f"{shown(name)} cannot be read: {reason(error)}, "
                "expected a file, as seen from the working directory"
            ) from None
        if len(octets) > MAX_PAGE:
            raise ValueError(
                f"{shown(name)} is too large, expected at most {format_size(MAX_PAGE)}"
            )
        self._total += len(octets)
        if self._total > MAX_PAGES:
            raise ValueError(
                f"with {shown(name)} all files are too large, "
                f"expected at most {format_size(MAX_PAGES)} together"
            )
        return octets

    def _check(self, place: Place, section: Mapping[str, object], name: str, octets: bytes) -> None:
        given, template = section.get("type"), section.get("template")
        if not (given is None or isinstance(given, str)) or not (
            template is None or isinstance(template, bool)
        ):
            return
        try:
            content_type = media_type(name, given)
        except ValueError as error:
            self.faults.append(Fault(place, str(error)))
            return
        try:
            if is_template(name, template):
                octets = Template(octets, content_type).render(TRIAL)
        except ValueError as error:
            self.faults.append(Fault(place, f"{shown(name)} is no template: {error}"))
            return
        if is_json(content_type):
            try:
                json.loads(octets)
            except (ValueError, RecursionError):
                filled = " once it is filled in" if is_template(name, template) else ""
                message = f"{shown(name)} is not JSON{filled}, expected what its type says"
                self.faults.append(Fault(place, message))


def _page_lists(data: Mapping[str, object]) -> Iterator[tuple[Place, object]]:
    """Yield each list of error pages."""
    yield ("error_pages",), data.get("error_pages")
    for name, service in mapping(data.get("services")).items():
        yield ("services", name, "error_pages"), mapping(service).get("error_pages")


def _fallbacks(data: Mapping[str, object]) -> Iterator[tuple[Place, Mapping[str, object]]]:
    """Yield each item of ``fallback``."""
    for name, service in mapping(data.get("services")).items():
        for index, item in enumerate(items(mapping(service).get("fallback"))):
            yield ("services", name, "fallback", index), mapping(item)


def _sections(data: Mapping[str, object]) -> Iterator[tuple[Place, Mapping[str, object]]]:
    """Yield everything that has a ``file`` with an answer's body."""
    for place, item in _fallbacks(data):
        if "static" in item:
            yield (*place, "static"), mapping(item["static"])
    for place, pages in _page_lists(data):
        for index, page in enumerate(items(pages)):
            for at, form in enumerate(items(mapping(page).get("files"))):
                yield (*place, index, "files", at), mapping(form)


def page_faults(data: Mapping[str, object]) -> Iterator[Fault]:
    """Yield what one key of a fallback or an error page says against another."""
    for place, item in _fallbacks(data):
        yield from _stale_faults((*place, "stale"), mapping(item.get("stale")))
        yield from _static_faults((*place, "static"), mapping(item.get("static")))
    for place, pages in _page_lists(data):
        seen: dict[object, int] = {}
        for index, page in enumerate(items(pages)):
            for at, status in enumerate(items(mapping(page).get("on"))):
                if not isinstance(status, (str, int)):
                    continue
                if status in seen:
                    message = f"{status} has its page in error_pages[{seen[status]}] already"
                    yield Fault((*place, index, "on", at), message)
                seen.setdefault(status, index)


def _stale_faults(place: Place, stale: Mapping[str, object]) -> Iterator[Fault]:
    for index, method in enumerate(items(stale.get("methods"))):
        if isinstance(method, str) and method not in {"GET", "HEAD"}:
            message = f"{shown(method)} has no stored copies, expected GET or HEAD"
            yield Fault((*place, "methods", index), message)


def _static_faults(place: Place, static: Mapping[str, object]) -> Iterator[Fault]:
    status = static.get("status", 200)
    for index, method in enumerate(items(static.get("methods"))):
        if isinstance(method, str) and method not in _SAFE and status in range(400):
            yield Fault(
                (*place, "methods", index),
                f"{shown(method)} is not safe and never answered with success by a fallback, "
                "expected GET, HEAD or OPTIONS, or a status from 400 on",
            )
    seen: dict[str, str] = {}
    for name in mapping(static.get("fields")):
        if name.lower() in seen:
            yield Fault(
                (*place, "fields", name), f"is the same field as {seen[name.lower()]}", at_key=True
            )
        seen.setdefault(name.lower(), name)
