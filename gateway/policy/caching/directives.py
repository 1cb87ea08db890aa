"""Cache-Control, of requests and of answers (RFC 9111 section 5.2, RFC 5861).

What is malformed is read as the stricter of what it could mean: a freshness that is no number, or
that is said twice in different ways, is none (section 4.2.1).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Section 1.2.2: what is larger, or does not fit, is this.
MAX_SECONDS = 2**31
#: Digits looked at; more are MAX_SECONDS.
_MAX_DIGITS = 10

#: One member of the list: a name, and what is behind ``=``. A quoted string hides its commas.
_MEMBER = re.compile(rb'((?:[^",]|"(?:[^"\\]|\\.)*"?)+)', re.DOTALL)
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_NAMES = re.compile(rb"[^\s,]+")


@dataclass(frozen=True, slots=True)
class Directives:
    """What Cache-Control says. Times are whole seconds, None where they are not said.

    ``no_cache_fields`` are the lower-case names of a qualified ``no-cache``; ``max_stale`` is
    ``MAX_SECONDS`` where it comes without a number.
    """

    no_store: bool = False
    no_cache: bool = False
    no_cache_fields: tuple[bytes, ...] = ()
    private: bool = False
    public: bool = False
    must_revalidate: bool = False
    proxy_revalidate: bool = False
    must_understand: bool = False
    only_if_cached: bool = False
    max_age: int | None = None
    s_maxage: int | None = None
    max_stale: int | None = None
    min_fresh: int | None = None
    stale_while_revalidate: int | None = None
    stale_if_error: int | None = None


NONE = Directives()

_FLAGS = {
    b"no-store": "no_store",
    # Qualified or not: a shared cache that keeps some of a private answer gains little by it.
    b"private": "private",
    b"public": "public",
    b"must-revalidate": "must_revalidate",
    b"proxy-revalidate": "proxy_revalidate",
    b"must-understand": "must_understand",
    b"only-if-cached": "only_if_cached",
}
_SECONDS = {
    b"max-age": "max_age",
    b"s-maxage": "s_maxage",
    b"min-fresh": "min_fresh",
    b"stale-while-revalidate": "stale_while_revalidate",
    b"stale-if-error": "stale_if_error",
}


@dataclass(slots=True)
class _Found:
    flags: dict[str, bool] = field(default_factory=dict)
    seconds: dict[str, int] = field(default_factory=dict)
    fields: list[bytes] = field(default_factory=list)


def parse(values: Sequence[bytes]) -> Directives:
    """Return what the field's values (one per line) say together."""
    if not values:
        return NONE
    found = _Found()
    for name, argument in _members(b",".join(values)):
        _take(found, name, argument)
    return Directives(
        **found.flags,
        **found.seconds,  # type: ignore[arg-type]  # the names of whole seconds
        no_cache_fields=tuple(found.fields),
    )


def _take(found: _Found, name: bytes, argument: bytes | None) -> None:
    if name in _FLAGS:
        found.flags[_FLAGS[name]] = True
    elif name == b"no-cache":
        names = [each.lower() for each in _NAMES.findall(argument or b"")]
        found.fields += names
        if not names:
            found.flags["no_cache"] = True
    elif name == b"max-stale" and argument is None:
        found.seconds["max_stale"] = MAX_SECONDS
    elif name == b"max-stale":
        found.seconds["max_stale"] = _whole(argument or b"") or 0
    elif name in _SECONDS:
        key = _SECONDS[name]
        value = _whole(argument or b"")
        if value is None or found.seconds.get(key, value) != value:
            # min-fresh asks for more where it grows, everything else for less where it shrinks.
            value = MAX_SECONDS if key == "min_fresh" else 0
        found.seconds[key] = value


def _members(joined: bytes) -> Iterator[tuple[bytes, bytes | None]]:
    for member in _MEMBER.findall(joined):
        name, mark, argument = member.strip(b" \t").partition(b"=")
        quoted = _QUOTED.fullmatch(argument)
        if quoted is not None:
            argument = re.sub(rb"\\(.)", rb"\1", quoted[1], flags=re.DOTALL)
        # A blank before the `=` does not make another directive of it: see the module.
        yield name.strip(b" \t").lower(), argument if mark else None


def _whole(argument: bytes) -> int | None:
    if not argument.isdigit():
        return None
    return MAX_SECONDS if len(argument.lstrip(b"0")) > _MAX_DIGITS else _bounded(int(argument))


def _bounded(value: int) -> int:
    return min(value, MAX_SECONDS)


def request_directives(values: Sequence[bytes], pragma: bytes | None) -> Directives:
    """Return what a request says; ``Pragma: no-cache`` counts where it has no Cache-Control."""
    if values:
        return parse(values)
    if pragma is not None and b"no-cache" in [part.strip() for part in pragma.lower().split(b",")]:
        return Directives(no_cache=True)
    return NONE
