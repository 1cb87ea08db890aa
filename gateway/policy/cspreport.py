"""Reports of violations of content policies: what a browser says, as far as it is counted. Pure.

Two forms: ``application/csp-report`` (Content Security Policy Level 2, section 4.4), one object;
``application/reports+json`` (the Reporting API), a list that may hold other reports, too. All of
it is a client's word: bounded, never shown, and only counted for pages of the host that it was
sent to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import orjson

from gateway.board.layout import CSP_DIRECTIVES

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Reports that are read of one message.
MAX_REPORTS = 20
MAX_DOCUMENT = 8192
_OTHER = len(CSP_DIRECTIVES) - 1
#: Directives that a browser tells more exactly than they are counted.
_FOLDED = {
    "script-src-elem": "script-src",
    "script-src-attr": "script-src",
    "worker-src": "script-src",
    "style-src-elem": "style-src",
    "style-src-attr": "style-src",
    "child-src": "frame-src",
    "fenced-frame-src": "frame-src",
}
_PLACES = {name: place for place, name in enumerate(CSP_DIRECTIVES)}


class Violation(NamedTuple):
    """One violation: the page's address, and the place of its directive in CSP_DIRECTIVES."""

    document: bytes
    directive: int


def place_of(directive: object) -> int:
    """Return a directive's place; of an old browser's ``violated-directive``, its first word's."""
    if not isinstance(directive, str):
        return _OTHER
    words = directive[:64].lower().split(None, 1)
    name = words[0] if words else ""
    return _PLACES.get(_FOLDED.get(name, name), _OTHER)


def read_reports(body: bytes) -> list[Violation]:
    """Return the violations that a message reports, at most MAX_REPORTS.

    Raises ValueError for what is neither form.
    """
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ValueError("the report is not JSON") from error
    if isinstance(data, dict) and isinstance(data.get("csp-report"), dict):
        return list(_old(data["csp-report"]))
    if isinstance(data, list):
        return [each for item in data[:MAX_REPORTS] for each in _new(item)]
    raise ValueError("neither a csp-report nor a list of reports")


def _old(report: dict[str, object]) -> Iterator[Violation]:
    directive = report.get("effective-directive") or report.get("violated-directive")
    yield from _violation(report.get("document-uri"), directive)


def _new(report: object) -> Iterator[Violation]:
    if not isinstance(report, dict) or report.get("type") != "csp-violation":
        return
    body = report.get("body")
    if isinstance(body, dict):
        document = body.get("documentURL") or report.get("url")
        yield from _violation(document, body.get("effectiveDirective"))


def _violation(document: object, directive: object) -> Iterator[Violation]:
    if isinstance(document, str) and len(document) <= MAX_DOCUMENT and document.isascii():
        yield Violation(document.partition("#")[0].encode("ascii"), place_of(directive))
