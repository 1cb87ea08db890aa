"""Fallbacks: which rule holds, what it answers; error pages: who gets which."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.snapshot import ErrorPage, Fallback, PageForm
from gateway.policy.fallback import (
    MAX_RANGES,
    ErrorPages,
    FallbackPlan,
    Range,
    choose,
    parse_accept,
)

HTML, JSON, PROBLEM = "text/html; charset=utf-8", "application/json", "application/problem+json"
BROWSER = b"text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8"


def static(**more: object) -> Fallback:
    return Fallback(kind="static", type=JSON, **more)  # type: ignore[arg-type]


def test_rules_hold_by_method_and_path_in_their_order() -> None:
    plan = FallbackPlan(
        [
            Fallback(kind="stale", paths=("/api/*",), max_age=60.0, shared=True),
            static(paths=("/api/a",)),
            static(file=1),
        ],
        [b"one", b"two"],
    )
    told = [rule.stale or rule.answer({}).body for rule in plan.rules(b"GET", b"/api/a")]
    assert told == [True, b"one", b"two"]
    assert [rule.answer({}).body for rule in plan.rules(b"HEAD", b"/")] == [b"two"]
    assert plan.rules(b"POST", b"/api/a") == ()
    stale = plan.rules(b"GET", b"/api/b")[0]
    assert (stale.max_age, stale.shared) == (60.0, True)


def test_a_copy_is_kept_for_the_first_stale_rule_that_holds() -> None:
    plan = FallbackPlan(
        [
            static(),
            Fallback(kind="stale", paths=("/a",), shared=True),
            Fallback(kind="stale", methods=("GET",)),
        ],
        [b""],
    )
    kept = plan.keeps(b"GET", b"/a")
    assert kept is not None
    assert kept.shared
    other = plan.keeps(b"GET", b"/b")
    assert other is not None
    assert not other.shared
    assert plan.keeps(b"HEAD", b"/b") is None


def test_a_static_answer_says_what_it_is_and_that_nobody_may_keep_it() -> None:
    plan = FallbackPlan([static(status=203, fields=(("X-A", "b"),))], [b"{}"])
    (rule,) = plan.rules(b"GET", b"/")
    answer = rule.answer({})
    assert (answer.status, answer.body) == (203, b"{}")
    assert answer.lines == (
        b"Content-Type: application/json\r\nX-A: b\r\n"
        b"Cache-Control: no-store\r\nX-Gateway-Served-By: static\r\n"
    )


def test_a_template_is_filled_and_escaped() -> None:
    plan = FallbackPlan([static(template=True)], [b'{"s": "{{service}}", "i": {{status}}}'])
    (rule,) = plan.rules(b"GET", b"/")
    assert rule.answer({"service": 'a"b', "status": "200"}).body == b'{"s": "a\\"b", "i": 200}'


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE", b"PATCH", b"QUERY"])
def test_an_unsafe_method_is_never_answered_with_success(method: bytes) -> None:
    """Whatever a snapshot says: the check refuses it, and so does the plan."""
    name = method.decode()
    for status in (200, 302):
        assert (
            FallbackPlan([static(methods=(name,), status=status)], [b""]).rules(method, b"/") == ()
        )
    assert FallbackPlan([Fallback(kind="stale", methods=(name,))]).rules(method, b"/") == ()
    assert FallbackPlan([static(methods=(name,), status=503)], [b""]).rules(method, b"/")


def test_a_file_that_is_not_there_is_an_error() -> None:
    with pytest.raises(IndexError):
        FallbackPlan([static(file=1)], [b""])


# --- Accept -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "ranges"),
    [
        (b"", []),
        (b"text/html", [Range("text", "html", 1000)]),
        (b" Text/HTML ; level=1 ; Q=0.5 ", [Range("text", "html", 500)]),
        (b"*/*;q=0.8, a/*;q=0", [Range("*", "*", 800), Range("a", "*", 0)]),
        (b"a/b;q=0.001, a/b;q=1., a/b;q=1.000", [
            Range("a", "b", 1), Range("a", "b", 1000), Range("a", "b", 1000),
        ]),
        (b"a/b;q=2, a/b;q=1.001, a/b;q=0.0001, a/b;q=x, a/b;q=, a/b;q=-1", []),
        (b"html, /, a/, /b, */html, ,", []),
        (b'a/b;x="1,2", c/d', [Range("a", "b", 1000), Range("c", "d", 1000)]),
    ],
)  # fmt: skip
def test_ranges_are_read_and_what_is_none_is_passed_over(value: bytes, ranges: list[Range]) -> None:
    assert parse_accept(value) == ranges


@given(st.binary())
def test_any_octets_are_read_within_bounds(value: bytes) -> None:
    found = parse_accept(value * 10)
    assert len(found) <= MAX_RANGES
    assert all(0 <= each.quality <= 1000 for each in found)


@pytest.mark.parametrize(
    ("accept", "types", "chosen"),
    [
        # A browser names HTML.
        (BROWSER, [HTML], 0),
        (BROWSER, [JSON, HTML], 1),
        (b"text/html, */*", [HTML], 0),
        (b"text/*", [HTML], 0),
        # Who takes anything, or JSON, gets the problem document.
        (b"*/*", [HTML], -1),
        (b"*/*", [HTML, JSON], -1),
        (b"application/json", [HTML], -1),
        (b"application/problem+json", [HTML], -1),
        (b"application/json, text/plain, */*", [HTML], -1),
        (b"application/json, text/html", [HTML], -1),
        # A page in JSON is who asks for JSON's.
        (b"application/json", [HTML, JSON], 1),
        (b"application/json, text/plain, */*", [HTML, JSON], 1),
        (b"application/*", [JSON], 0),
        (b"application/json, text/html", [HTML, JSON], 1),
        (b"application/json;q=0.5, text/html", [JSON, HTML], 1),
        # Weights (RFC 9110 section 12.5.1): the most specific range rules.
        (b"text/html;q=0, text/*", [HTML], -1),
        (b"text/html;q=0.4, application/json;q=0.5", [HTML], -1),
        (b"text/html;q=0.5, application/json;q=0.4", [HTML], 0),
        (b"text/html;q=0.5, */*", [HTML], -1),
        (b"image/png", [HTML], -1),
        (b"image/png, text/plain", [HTML, "text/plain", "image/png"], 1),
    ],
)
def test_who_gets_which_page(accept: bytes, types: list[str], chosen: int) -> None:
    assert choose(parse_accept(accept), types) == chosen


# --- pages --------------------------------------------------------------------------------------


def page(*on: str, file: int = 0, intercept: bool = False) -> ErrorPage:
    return ErrorPage(on=on, forms=(PageForm(type=HTML, file=file),), intercept=intercept)


def body(pages: ErrorPages, status: int, **more: bool) -> bytes | None:
    found = pages.find(status, BROWSER, **more)
    return None if found is None else found.answer(status, {}).body


def test_a_status_wins_over_its_class_and_a_services_page_over_the_platforms() -> None:
    files = [b"own 503", b"own 5xx", b"all 502", b"all 5xx", b"all 404"]
    pages = ErrorPages(
        [page("5xx", file=1), page("503", file=0)],
        [page("502", file=2), page("5xx", file=3), page("404", file=4)],
        files,
    )
    assert body(pages, 503) == b"own 503"
    assert body(pages, 502) == b"own 5xx"
    assert body(pages, 404) == b"all 404"
    assert body(pages, 403) is None
    assert pages
    assert not ErrorPages()


def test_a_page_keeps_the_status_and_is_kept_by_nobody() -> None:
    forms = (PageForm(type=HTML, file=0, template=True),)
    pages = ErrorPages([ErrorPage(on=("5xx",), forms=forms)], (), [b"<p>{{status}} {{title}}"])
    found = pages.find(503, BROWSER)
    assert found is not None
    answer = found.answer(503, {"status": "503", "title": "<no>"})
    assert answer.status == 503
    assert answer.body == b"<p>503 &lt;no&gt;"
    assert answer.lines == (
        b"Content-Type: text/html; charset=utf-8\r\nCache-Control: no-store\r\n"
    )


def test_without_accept_there_is_no_page() -> None:
    assert ErrorPages([page("5xx")], (), [b""]).find(503, None) is None


def test_only_pages_that_intercept_stand_for_a_backends_answer() -> None:
    pages = ErrorPages([page("404"), page("5xx", intercept=True)], [page("4xx", intercept=True)],
                       [b"page"])  # fmt: skip
    assert pages.intercepts
    assert body(pages, 404) == b"page"
    # The page for it is the service's own, which does not.
    assert body(pages, 404, intercepted=True) is None
    assert body(pages, 403, intercepted=True) == b"page"
    assert body(pages, 500, intercepted=True) == b"page"
    assert not ErrorPages([page("404")], (), [b""]).intercepts
