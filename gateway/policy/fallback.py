"""What answers where nothing else can: stale copies, static files, error pages.

Decisions without I/O, compiled once per snapshot. A degraded answer is never kept by anybody
(``no-store``) and says what it is (``X-Gateway-Served-By``); a method that is not safe (RFC 9110
section 9.2.1) is never answered with success. A static answer is whole: conditions and ranges of
the request are ignored, as RFC 9110 sections 13.1 and 14.2 allow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.config.templates import Template, base_type, is_json
from gateway.policy.assets import AssetPaths

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.config.snapshot import ErrorPage, Fallback, PageForm

SAFE = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE"))

#: Octets of an Accept field that are looked at, and ranges in it.
MAX_ACCEPT = 4096
MAX_RANGES = 64

#: What the gateway's own problem document passes for.
_PROBLEM = ("application/problem+json", "application/json")
#: Who wins at the same weight: a page that anything names, the problem document where nothing names
#: it, a page that is named, the problem document that is named, a JSON page that is named.
_NOT_NAMED, _ANY, _OTHER, _NAMED, _JSON = range(5)


@dataclass(frozen=True, slots=True)
class StaticAnswer:
    """A whole answer of the gateway's own. ``lines`` are complete, without Content-Length."""

    status: int
    lines: bytes
    body: bytes


class Rule:
    """One fallback: ``stale`` (a copy of at most ``max_age`` seconds) or a static answer."""

    __slots__ = ("_all_paths", "_body", "_lines", "_methods", "_paths", "_status", "_template",
                 "max_age", "shared", "stale")  # fmt: skip

    def __init__(self, config: Fallback, files: Sequence[bytes]) -> None:
        self.stale = config.kind == "stale"
        self.max_age = config.max_age
        self.shared = config.shared
        methods = frozenset(method.encode() for method in config.methods)
        if self.stale:
            methods &= {b"GET", b"HEAD"}
        elif config.status < 400:
            methods &= SAFE
        self._methods = methods
        self._all_paths = not config.paths
        self._paths = AssetPaths(config.paths)
        self._status = config.status
        self._template: Template | None = None
        self._body = b"" if self.stale else files[config.file]
        if config.template and not self.stale:
            self._template = Template(self._body, config.type)
        fields = [("Content-Type", config.type), *config.fields]
        fields += [("Cache-Control", "no-store"), ("X-Gateway-Served-By", "static")]
        self._lines = b"".join(f"{name}: {value}\r\n".encode() for name, value in fields)

    def holds(self, method: bytes, path: bytes) -> bool:
        """Tell whether it may answer this request; ``path`` is ``match_path``'s."""
        return method in self._methods and (self._all_paths or self._paths.matches(path))

    @property
    def status(self) -> int:
        """The static answer's status."""
        return self._status

    def answer(self, values: Mapping[str, str]) -> StaticAnswer:
        """Return the static answer, filled with ``values`` where it is a template."""
        body = self._body if self._template is None else self._template.render(values)
        return StaticAnswer(self._status, self._lines, body)


class FallbackPlan:
    """A service's fallbacks in their order. Raises IndexError for a file that is not there."""

    __slots__ = ("_rules",)

    def __init__(self, fallbacks: Sequence[Fallback] = (), files: Sequence[bytes] = ()) -> None:
        self._rules = tuple(Rule(each, files) for each in fallbacks)

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._rules)

    @property
    def stale(self) -> bool:
        """Whether any of them is a stored copy."""
        return any(rule.stale for rule in self._rules)

    def rules(self, method: bytes, path: bytes) -> tuple[Rule, ...]:
        """Return the rules that may answer a request, in the order to try them."""
        return tuple(rule for rule in self._rules if rule.holds(method, path))

    def keeps(self, method: bytes, path: bytes) -> Rule | None:
        """Return the rule for whose sake a good answer's copy is kept; None: nobody asks for it."""
        for rule in self._rules:
            if rule.stale and rule.holds(method, path):
                return rule
        return None


# --- error pages ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Range:
    """One media range of an Accept field: ``*`` for any, quality 0 to 1000."""

    type: str
    subtype: str
    quality: int

    def matches(self, media: str) -> int:
        """Return how specifically it names a media type: 3 itself, 2 its type, 1 any, 0 not."""
        if self.type == "*":
            return 1
        main, _, sub = media.partition("/")
        if main != self.type:
            return 0
        if self.subtype == "*":
            return 2
        return 3 if sub == self.subtype else 0


def parse_accept(value: bytes) -> list[Range]:
    """Return the media ranges of an Accept field (RFC 9110 section 12.5.1).

    What is no range is passed over; parameters other than the weight are not looked at.
    """
    found = []
    for part in value[:MAX_ACCEPT].decode("latin-1").split(",")[:MAX_RANGES]:
        media, *parameters = (piece.strip() for piece in part.split(";"))
        main, slash, sub = media.lower().partition("/")
        quality = _quality(parameters)
        if not slash or not main or not sub or quality < 0 or (main == "*" and sub != "*"):
            continue
        found.append(Range(main, sub, quality))
    return found


def _quality(parameters: list[str]) -> int:
    """Return a weight in thousandths (RFC 9110 section 12.4.2), -1 where it is none."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() != "q":
            continue
        whole, _, rest = value.strip().partition(".")
        digits = rest.ljust(3, "0")
        if (
            whole not in {"0", "1"}
            or len(digits) != 3
            or not (digits.isascii() and digits.isdigit())
        ):
            return -1
        thousandths = int(whole) * 1000 + int(digits)
        return thousandths if thousandths <= 1000 else -1
    return 1000


def _wanted(ranges: list[Range], media: str) -> tuple[int, int]:
    """Return a type's quality and how specifically it was named; the most specific range rules."""
    named, quality = 0, 0
    for each in ranges:
        matched = each.matches(media)
        if matched > named:
            named, quality = matched, each.quality
    return quality, named


def choose(ranges: list[Range], types: Sequence[str]) -> int:
    """Return which of the pages' types a client gets, -1 for what it would get without pages.

    The gateway's problem document stands against the pages, as JSON. A page wins where the client
    wants its type more; at the same weight only where the client names the type and either does
    not name JSON, or the page is JSON itself. So a browser, which names HTML, gets the HTML; who
    accepts anything (``*/*``, or no Accept), or JSON, gets the problem document.
    """
    problem_quality, problem_named = max(_wanted(ranges, media) for media in _PROBLEM)
    best, best_rank = -1, (problem_quality, _NAMED if problem_named > 1 else _ANY)
    for index, media in enumerate(types):
        quality, named = _wanted(ranges, base_type(media))
        if quality == 0:
            continue
        rank = (quality, _NOT_NAMED if named == 1 else _JSON if is_json(media) else _OTHER)
        if rank > best_rank:
            best, best_rank = index, rank
    return best


class Page:
    """One form of an error page."""

    __slots__ = ("_body", "_lines", "_template", "type")

    def __init__(self, form: PageForm, files: Sequence[bytes]) -> None:
        self.type = form.type
        self._body = files[form.file]
        self._template = Template(self._body, form.type) if form.template else None
        self._lines = f"Content-Type: {form.type}\r\nCache-Control: no-store\r\n".encode()

    def answer(self, status: int, values: Mapping[str, str]) -> StaticAnswer:
        """Return the page for a status, filled with ``values`` where it is a template."""
        body = self._body if self._template is None else self._template.render(values)
        return StaticAnswer(status, self._lines, body)


class _Entry:
    """The forms for one status or class."""

    __slots__ = ("forms", "intercept", "types")

    def __init__(self, page: ErrorPage, files: Sequence[bytes]) -> None:
        self.forms = tuple(Page(form, files) for form in page.forms)
        self.types = tuple(form.type for form in page.forms)
        self.intercept = page.intercept


class ErrorPages:
    """A service's pages and behind them the platform's: a status wins over its class."""

    __slots__ = ("_levels", "intercepts")

    def __init__(
        self,
        own: Sequence[ErrorPage] = (),
        common: Sequence[ErrorPage] = (),
        files: Sequence[bytes] = (),
    ) -> None:
        levels = []
        for pages in (own, common):
            level: dict[str, _Entry] = {}
            for page in pages:
                entry = _Entry(page, files)
                for status in page.on:
                    level.setdefault(status, entry)
            levels.append(level)
        self._levels = tuple(levels)
        #: Whether any page stands for backends' answers too.
        self.intercepts = any(page.intercept for page in (*own, *common))

    def __bool__(self) -> bool:
        """Whether there is any."""
        return any(self._levels)

    def find(self, status: int, accept: bytes | None, *, intercepted: bool = False) -> Page | None:
        """Return the page for a status and an Accept field (None: there was none), or None.

        ``intercepted``: it would stand for a backend's own answer.
        """
        entry = self._entry(status)
        if entry is None or (intercepted and not entry.intercept) or accept is None:
            return None
        chosen = choose(parse_accept(accept), entry.types)
        return None if chosen < 0 else entry.forms[chosen]

    def _entry(self, status: int) -> _Entry | None:
        for level in self._levels:
            entry = level.get(str(status)) or level.get(f"{status // 100}xx")
            if entry is not None:
                return entry
        return None
