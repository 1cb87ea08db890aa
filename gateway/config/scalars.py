"""Scalars of the configuration: durations, sizes, rates, percentages. Pure.

Each parser takes what stands in the file and returns a plain number, or raises ``ValueError`` with
one message that says what was found and what is expected. A bare number is never a duration or a
size: ``timeout: 5`` means seconds to one reader and milliseconds to the next.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Patterns as a JSON Schema has them (ECMA-262's dialect and Python's agree on these).
DURATION_PATTERN = r"^[0-9]{1,12}(\.[0-9]{1,6})?(ms|s|m|h|d)$"
SIZE_PATTERN = r"^[0-9]{1,15}(B|KiB|MiB|GiB)$"
RATE_PATTERN = r"^[0-9]{1,9}/(s|min|h|d)$"
PERCENTAGE_PATTERN = r"^[0-9]{1,3}(\.[0-9]{1,4})?%$"

_DURATION = re.compile(DURATION_PATTERN)
_SIZE = re.compile(SIZE_PATTERN)
_RATE = re.compile(RATE_PATTERN)
_PERCENTAGE = re.compile(PERCENTAGE_PATTERN)

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_OCTETS = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_PERIODS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}

#: A hundred years: longer is a slip of the finger, and would overflow a deadline's arithmetic.
MAX_DURATION = 100 * 365 * 86_400.0
#: 1 PiB.
MAX_SIZE = 1024**5

_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Rate:
    """``count`` requests in each ``period`` seconds."""

    count: int
    period: float

    @property
    def per_second(self) -> float:
        """The rate as requests a second."""
        return self.count / self.period

    def __str__(self) -> str:
        unit = next(unit for unit, period in _PERIODS.items() if period == self.period)
        return f"{self.count}/{unit}"


def shown(value: object) -> str:
    """Return a scalar as an error message may quote it: short, and on one line."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, str):
        text = repr(value[:_SHOWN])  # escapes make it longer again
        return text if len(value) < _SHOWN and len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…'"
    return "a list" if isinstance(value, (list, tuple)) else "keys and values"


def _match(pattern: re.Pattern[str], value: object, kind: str, expected: str) -> str:
    """Return ``value`` where it is text of that form, else raise with what is expected."""
    # fullmatch: `$` alone would let a line feed at the end through.
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise ValueError(f"{shown(value)} is not a {kind}, expected {expected}")
    return value


def parse_duration(value: object) -> float:
    """Return seconds for ``500ms``, ``5s``, ``2m``, ``24h`` or ``30d``.

    Raises ValueError for anything else and for more than a hundred years.
    """
    expected = "a number and a unit such as 500ms, 5s, 2m, 24h or 30d"
    text = _match(_DURATION, value, "duration", expected)
    unit = "ms" if text.endswith("ms") else text[-1]
    number = text[: -len(unit)]
    # Divided, not multiplied by 0.001: 500ms is 0.5 and 100ms the same float as 0.1.
    seconds = float(number) / 1000 if unit == "ms" else float(number) * _SECONDS[unit]
    if seconds > MAX_DURATION:
        raise ValueError(f"{shown(value)} is too long, expected at most 36500d")
    return seconds


def parse_size(value: object) -> int:
    """Return octets for ``512B``, ``64KiB``, ``10MiB`` or ``1GiB``.

    Raises ValueError for anything else and for more than 1 PiB.
    """
    expected = "a whole number and a unit such as 512B, 64KiB, 10MiB or 1GiB"
    text = _match(_SIZE, value, "size", expected)
    unit = text.lstrip("0123456789")
    octets = int(text[: -len(unit)]) * _OCTETS[unit]
    if octets > MAX_SIZE:
        raise ValueError(f"{shown(value)} is too large, expected at most 1048576GiB")
    return octets


def parse_rate(value: object) -> Rate:
    """Return the rate for ``100/s``, ``60/min``, ``1000/h`` or ``5000/d``.

    Raises ValueError for anything else and for a rate of nothing.
    """
    expected = "a whole number of requests per unit of time such as 100/s, 60/min or 1000/h"
    text = _match(_RATE, value, "rate", expected)
    count, _, unit = text.partition("/")
    if int(count) == 0:
        raise ValueError(f"{shown(value)} lets nothing through, expected at least 1/{unit}")
    return Rate(int(count), _PERIODS[unit])


def parse_percentage(value: object) -> float:
    """Return the share (0.0-1.0) for ``20%`` or ``0.5%``.

    Raises ValueError for anything else and for more than 100%.
    """
    expected = "a number from 0 to 100 and a percent sign such as 20% or 0.5%"
    text = _match(_PERCENTAGE, value, "percentage", expected)
    percent = float(text[:-1])
    if percent > 100:
        raise ValueError(f"{shown(value)} is more than everything, expected at most 100%")
    return percent / 100


def parse_weight(value: object) -> int:
    """Return buckets (0-10,000) for a weight in percent: a number from 0 to 100 by 0.01.

    Raises ValueError for anything else; a weight between two buckets is refused, not rounded.
    """
    expected = "a number from 0 to 100 in steps of 0.01"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{shown(value)} is not a weight, expected {expected}")  # noqa: TRY004 - parsers raise one type
    if not 0 <= value <= 100:  # NaN too is not between them
        raise ValueError(f"{shown(value)} is not a weight, expected {expected}")
    buckets = round(value * 100)
    # Binary fractions: 0.07 * 100 is 7.000000000000001.
    if abs(value * 100 - buckets) > 1e-6:
        raise ValueError(f"{shown(value)} is finer than the split, expected {expected}")
    return buckets


def format_duration(seconds: float) -> str:
    """Return a duration as the configuration writes it: ``500ms``, ``5s``, ``2m``."""
    for unit in ("d", "h", "m", "s"):
        count = seconds / _SECONDS[unit]
        if count >= 1 and count == int(count):
            return f"{int(count)}{unit}"
    if seconds >= 1:
        return f"{seconds:g}s"
    return f"{seconds * 1000:g}ms"


def format_size(octets: int) -> str:
    """Return a size as the configuration writes it: ``512B``, ``64KiB``."""
    for unit in ("GiB", "MiB", "KiB"):
        if octets >= _OCTETS[unit] and octets % _OCTETS[unit] == 0:
            return f"{octets // _OCTETS[unit]}{unit}"
    return f"{octets}B"
