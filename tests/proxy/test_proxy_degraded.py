"""What a snapshot's fallbacks and pages are made into, and that it is made once."""

from __future__ import annotations

import msgspec
import pytest

from gateway.config.snapshot import ErrorPage, Fallback, PageForm
from gateway.proxy.degraded import DegradedBuilder, kept_lines, retry_after_of, title_of, values
from gateway.wire.head import Head
from tests.support.rig import service, topology

STATIC = Fallback(kind="static", type="application/json", template=True)
PAGE = ErrorPage(on=("5xx",), forms=(PageForm(type="text/html", file=0),))
replace = msgspec.structs.replace


def test_what_has_not_changed_is_kept_and_equal_services_share_it() -> None:
    builder = DegradedBuilder()
    services = [service("a", fallbacks=(STATIC,)), service("b", row=2, fallbacks=(STATIC,))]
    first = topology(services=services, pools=(), files=(b"{}",))
    made = builder.build(first)
    assert made["a"] is made["b"]
    # Another topology, as decoded anew: the same contents.
    again = builder.build(replace(first, number=2, files=(bytes(bytearray(b"{}")),)))
    assert again["a"] is made["a"]
    changed = builder.build(replace(first, number=3, files=(b"[]",)))
    assert changed["a"] is not made["a"]
    (rule,) = changed["a"].plan.rules(b"GET", b"/")
    assert rule.answer({}).body == b"[]"
    common = builder.build(replace(first, number=4, files=(b"[]",), error_pages=(PAGE,)))
    assert common["a"].pages
    assert builder.common
    assert not builder.build(first)["a"].pages
    assert not builder.common


@pytest.mark.parametrize(
    ("files", "said"), [((), "not there"), ((b"{{nothing}}",), "no value"), ((b"\xff",), "UTF-8")]
)
def test_a_snapshot_that_cannot_be_served_is_refused(files: tuple[bytes, ...], said: str) -> None:
    wrong = topology(services=[service(fallbacks=(STATIC,))], pools=(), files=files)
    with pytest.raises(ValueError, match=said):
        DegradedBuilder().build(wrong)


def test_values_are_text() -> None:
    made = values(
        status=503,
        title="t",
        service="s",
        request_id=b"abc",
        retry_after=1.2,
        mode="degraded",
        now=0.5,
    )
    assert made == {
        "status": "503",
        "title": "t",
        "service": "s",
        "request_id": "abc",
        "retry_after": "2",
        "mode": "degraded",
        "time": "1970-01-01T00:00:00Z",
    }


def test_a_title_is_the_phrase_of_what_was_answered_first() -> None:
    assert title_of("503", 200) == "Service Unavailable"
    assert title_of("connect", 502) == "Bad Gateway"
    assert title_of(None, 599) == ""


def test_only_503_says_when_to_come_back() -> None:
    assert retry_after_of(503, 0.0) == 1
    assert retry_after_of(503, 7.5) == 7.5
    assert retry_after_of(502, 7.5) == 0.0


def test_what_goes_along_with_a_page_is_whole_lines() -> None:
    head = Head(
        b"HTTP/1.1 401 No\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nX-Other: x\r\n"
        b"WWW-Authenticate: Basic\r\nAllow: GET\r\n\r\n",
        0,
    )
    assert head.read_response(False)
    assert kept_lines(head) == (
        b"Set-Cookie: a=b\r\nSet-Cookie: c=d\r\nWww-Authenticate: Basic\r\nAllow: GET\r\n"
    )
