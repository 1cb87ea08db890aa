"""Reports of violations: what is read of both forms, and of what is neither."""

from __future__ import annotations

import contextlib
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.board.layout import CSP_DIRECTIVES
from gateway.policy.cspreport import MAX_REPORTS, Violation, place_of, read_reports

OTHER = CSP_DIRECTIVES.index("other")


def old(**report: object) -> bytes:
    return orjson.dumps({"csp-report": report})


def new(**body: object) -> dict[str, Any]:
    return {"type": "csp-violation", "url": "https://a.example/u", "body": body}


def test_the_old_form() -> None:
    body = old(**{"document-uri": "https://a.example/p?q#f", "effective-directive": "img-src"})
    place = CSP_DIRECTIVES.index("img-src")
    assert read_reports(body) == [Violation(b"https://a.example/p?q", place)]


def test_the_older_browsers_directive_has_its_sources_behind_it() -> None:
    body = old(**{"document-uri": "https://a/", "violated-directive": "script-src 'self' x"})
    assert read_reports(body)[0].directive == CSP_DIRECTIVES.index("script-src")


def test_the_new_form_among_other_reports() -> None:
    reports = [
        {"type": "deprecation", "url": "https://a.example/", "body": {}},
        new(documentURL="https://a.example/d", effectiveDirective="style-src-elem"),
        new(effectiveDirective="frame-ancestors"),
        "no report",
        {"type": "csp-violation", "body": "no body"},
    ]
    assert read_reports(orjson.dumps(reports)) == [
        Violation(b"https://a.example/d", CSP_DIRECTIVES.index("style-src")),
        Violation(b"https://a.example/u", CSP_DIRECTIVES.index("frame-ancestors")),
    ]


def test_so_many_are_read_of_one_message() -> None:
    assert len(read_reports(orjson.dumps([new()] * (MAX_REPORTS + 5)))) == MAX_REPORTS


@pytest.mark.parametrize(
    ("directive", "place"),
    [
        ("script-src-attr", "script-src"),
        ("worker-src", "script-src"),
        ("CHILD-SRC", "frame-src"),
        ("require-trusted-types-for", "other"),
        ("", "other"),
        (" ", "other"),
        (None, "other"),
        (7, "other"),
        ("x" * 100_000, "other"),
    ],
)
def test_directives_are_of_a_fixed_set(directive: object, place: str) -> None:
    assert CSP_DIRECTIVES[place_of(directive)] == place


@pytest.mark.parametrize(
    "report",
    [{}, {"document-uri": 5}, {"document-uri": "https://a/" + "x" * 9000}, {"document-uri": "é"}],
)
def test_a_report_of_no_page_counts_for_nothing(report: dict[str, object]) -> None:
    assert read_reports(old(**report)) == []


@pytest.mark.parametrize("body", [b"", b"{", b"{}", b'{"csp-report": 1}', b"1", b"[" * 100_000])
def test_what_is_no_report_is_said_so(body: bytes) -> None:
    with pytest.raises(ValueError, match="report"):
        read_reports(body)


@given(
    st.recursive(
        st.none() | st.integers(0, 9) | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["csp-report", "type", "body", "url", "documentURL", "document-uri"]
                ),
                inner,
                max_size=3,
            )
        ),
    )
)
def test_nothing_else_is_ever_raised(data: object) -> None:
    with contextlib.suppress(ValueError):
        assert len(read_reports(orjson.dumps(data))) <= MAX_REPORTS
