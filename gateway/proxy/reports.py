"""Reports of violations of content policies: what is taken of them.

A report is read here and never forwarded. Whoever may send one may send anything: so many a minute
of one client, so many octets each, so many at a time, and what is counted are numbers of a fixed
set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.policy.cspreport import Violation, read_reports
from gateway.policy.limit import Limit
from gateway.proxy.errors import Failure
from gateway.proxy.limiting import limiter_table
from gateway.wire.errors import WireError
from gateway.wire.target import match_path, split_absolute, valid_host

if TYPE_CHECKING:
    from gateway.config.snapshot import CspReports

REPORTS_PATH = b"/.well-known/gateway/csp-reports"

_TYPES = frozenset((b"application/csp-report", b"application/reports+json", b"application/json"))
#: Reports that are being received at a time.
MAX_OPEN = 128
#: Seconds that one may take to arrive.
TIMEOUT = 10.0
_MINUTE = 60.0


class ReportDesk:
    """Who may report how often. The times are in the board's table: a client's rate is one rate for
    the machine, whichever worker it came to, and a flood of clients takes no memory.
    """

    __slots__ = ("_limit", "_open", "_per_minute", "_words")

    def __init__(self, words: memoryview) -> None:
        self._words = words
        self._limit: Limit | None = None
        self._per_minute = 0
        self._open = 0

    def __repr__(self) -> str:
        return f"<ReportDesk open={self._open}>"

    def _limited(self, per_minute: int) -> Limit:
        if self._limit is None or self._per_minute != per_minute:
            table = limiter_table(self._words)
            self._limit = Limit(table, b"csp-reports", per_minute, _MINUTE, per_minute - 1)
            self._per_minute = per_minute
        return self._limit

    def refusal(
        self, settings: CspReports, method: bytes, type_: bytes | None, client: str, now: float
    ) -> Failure | None:
        """Take a report in (``leave`` is owed then), or say why not. ``now`` is monotonic."""
        if method != b"POST":
            return Failure("not-allowed")
        essence = (type_ or b"").partition(b";")[0].strip(b" \t").lower()
        if essence not in _TYPES:
            return Failure("bad-request", "not a type of report", status=415)
        limit = self._limited(settings.per_minute)
        if limit.ask(client, int(now * 1e9)) > 0:
            return Failure("too-many-reports")
        if self._open >= MAX_OPEN:
            return Failure("overload", "reports")
        limit.take()
        self._open += 1
        return None

    def leave(self) -> None:
        """A report that was taken in is over, whatever became of it."""
        self._open -= 1


def violations_of(body: bytes, host: bytes) -> list[Violation]:
    """Return the violations on pages of ``host``, by their paths as routes read them.

    Raises Failure for what is no report.
    """
    try:
        told = read_reports(body)
    except ValueError as error:
        raise Failure("bad-request", str(error)) from None
    found = []
    for violation in told:
        try:
            _, authority, target = split_absolute(violation.document)
            if valid_host(authority)[0] == host:
                found.append(violation._replace(document=match_path(target)))
        except WireError:
            continue  # a page of somewhere else: about:, blob:, a file
    return found
