"""HTTP-date (RFC 9110 section 5.6.7), read strictly: what is no date is no date.

All three forms are read, in any letter case. Others are None: a cache takes an ``Expires`` that it
cannot read for one in the past (RFC 9111 section 5.3).
"""

from __future__ import annotations

import calendar
import re

_MONTHS = {
    name: at
    for at, name in enumerate(
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), 1
    )
}
_TIME = r"(?P<h>\d\d):(?P<m>\d\d):(?P<s>\d\d)"
_DAY = "(?:mon|tue|wed|thu|fri|sat|sun)"
_LONG_DAY = "(?:monday|tuesday|wednesday|thursday|friday|saturday|sunday)"
_MONTH = "(?P<month>[a-z]{3})"
_FORMS = tuple(
    re.compile(form, re.ASCII)
    for form in (
        rf"{_DAY}, (?P<day>\d\d) {_MONTH} (?P<year>\d{{4}}) {_TIME} gmt",
        rf"{_LONG_DAY}, (?P<day>\d\d)-{_MONTH}-(?P<year>\d\d) {_TIME} gmt",
        rf"{_DAY} {_MONTH} (?P<day>[ \d]\d) {_TIME} (?P<year>\d{{4}})",
    )
)
#: RFC 9110: a two-digit year that seems more than this ahead is one of the century before.
_AHEAD = 50
_MAX_LENGTH = 40


def http_date(value: bytes | None, now: float) -> int | None:
    """Return a date in seconds since the epoch, None where it is absent or none.

    ``now`` settles the century of RFC 850's two-digit years.
    """
    if value is None or len(value) > _MAX_LENGTH:
        return None
    text = value.decode("latin-1").lower()
    for form in _FORMS:
        found = form.fullmatch(text)
        if found is not None:
            return _seconds(found, now)
    return None


def _seconds(found: re.Match[str], now: float) -> int | None:
    month = _MONTHS.get(found["month"])
    year, day = int(found["year"]), int(found["day"])
    hour, minute, second = int(found["h"]), int(found["m"]), int(found["s"])
    if month is None:
        return None
    if year < 100:
        current = 1970 + int(now // 31_556_952)
        year += current // 100 * 100
        if year > current + _AHEAD:
            year -= 100
    if year < 1 or not 1 <= day <= calendar.monthrange(year, month)[1]:
        return None
    if hour > 23 or minute > 59 or second > 60:
        return None
    return calendar.timegm((year, month, day, hour, minute, second))
