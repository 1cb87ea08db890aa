"""Error pages in conversation: browsers get them, API clients the problem document."""

from __future__ import annotations

import orjson
import pytest

from gateway.config.snapshot import ErrorPage, PageForm, Route, SecurityProfile
from tests.support.rig import Rig, service, topology

BROWSER = "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n"
FILES = (
    b"<p>{{status}} {{title}} {{service}} {{retry_after}} {{mode}} {{time}} {{request_id}}",
    b"<p>nothing here",
    b'{"own": {{status}}}',
)


def page(*on: str, file: int = 0, intercept: bool = False, json: bool = False) -> ErrorPage:
    forms = [PageForm(type="text/html; charset=utf-8", file=file, template=file == 0)]
    if json:
        forms.append(PageForm(type="application/json", file=2, template=True))
    return ErrorPage(on=on, forms=tuple(forms), intercept=intercept)


def serve(rig: Rig, *pages: ErrorPage, common: tuple[ErrorPage, ...] = ()) -> None:
    rig.serve(
        topology(
            number=2,
            services=[service(error_pages=pages)],
            routes=[Route(path="/", host="a.example", service="web", security="page")],
            profiles=[SecurityProfile(name="page", fields=(("X-Frame-Options", "DENY"),))],
            error_pages=common,
            files=FILES,
        )
    )


def test_a_browser_gets_the_page_and_an_api_client_the_problem(rig: Rig) -> None:
    serve(rig, page("5xx"))
    rig.client.get(fields=BROWSER)
    rig.refuses()
    answer = rig.client.answer()
    assert answer.status == 502
    assert answer.field(b"content-type") == b"text/html; charset=utf-8"
    assert answer.all(b"cache-control") == [b"no-store"]
    assert answer.field(b"x-gateway-error") == b"connect"
    assert answer.field(b"x-gateway-served-by") is None
    assert answer.field(b"x-frame-options") == b"DENY"
    identity = answer.field(b"x-request-id")
    assert identity is not None
    assert answer.body == (
        b"<p>502 The service could not be reached web  full 2030-01-01T00:00:00Z " + identity
    )
    for fields in ("", "Accept: */*\r\n", "Accept: application/json\r\n"):
        rig.client.get(fields=fields)
        rig.refuses()
        answer = rig.client.answer()
        assert answer.field(b"content-type") == b"application/problem+json"
        assert orjson.loads(answer.body)["type"] == "urn:gateway:error:connect"
    rig.over([502] * 4)


def test_a_page_in_json_is_for_who_asks_for_json(rig: Rig) -> None:
    serve(rig, page("5xx", json=True))
    rig.client.get(fields="Accept: application/json\r\n")
    rig.refuses()
    answer = rig.client.answer()
    assert (answer.field(b"content-type"), answer.body) == (b"application/json", b'{"own": 502}')
    rig.over([502])


def test_an_accept_on_several_lines_is_one(rig: Rig) -> None:
    serve(rig, page("5xx"))
    rig.client.get(fields="Accept: application/json;q=0.1\r\nAccept: text/html\r\n")
    rig.refuses()
    assert rig.client.answer().body.startswith(b"<p>502")
    rig.over([502])


def test_what_no_service_was_found_for_has_the_platforms_pages(rig: Rig) -> None:
    serve(rig, common=(page("404", file=1),))
    rig.client.get(fields=BROWSER, host="other.example")
    answer = rig.client.answer()
    assert (answer.status, answer.body) == (404, FILES[1])
    assert answer.field(b"x-gateway-error") == b"no-route"
    rig.client.send(b"HEAD / HTTP/1.1\r\nHost: other.example\r\n" + BROWSER.encode() + b"\r\n")
    answer = rig.client.answer(to_head=True)
    assert (answer.status, answer.body) == (404, b"")
    rig.over([404, 404])


def test_a_refusal_with_more_to_come_closes_as_ever(rig: Rig) -> None:
    serve(rig, page("4xx", file=1))
    head = b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 99999999\r\n"
    rig.client.send(head + BROWSER.encode() + b"\r\n")
    answer = rig.client.answer()
    assert (answer.status, answer.body) == (413, FILES[1])
    assert answer.field(b"connection") == b"close"
    rig.over([413])


# --- in place of a backend's answer -------------------------------------------------------------


@pytest.mark.parametrize("ended", [True, False])
def test_a_page_stands_for_a_backends_error_where_it_intercepts(rig: Rig, ended: bool) -> None:
    serve(rig, page("404", file=1, intercept=True), page("5xx"))
    rig.client.get(fields=BROWSER)
    backend = rig.backend()
    body = b"inner" if ended else b"in"
    backend.answers(
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\nX-Inner: secret\r\nSet-Cookie: a=b\r\n"
        b"Cache-Control: max-age=60\r\n\r\n" + body
    )
    answer = rig.client.answer()
    assert (answer.status, answer.body) == (404, FILES[1])
    assert answer.field(b"x-inner") is None
    assert answer.field(b"set-cookie") == b"a=b"
    assert answer.all(b"cache-control") == [b"no-store"]
    assert answer.field(b"x-gateway-error") == b"intercepted"
    assert answer.field(b"x-frame-options") == b"DENY"
    assert ended or backend.closed  # nobody reads the rest
    # A page that does not intercept leaves the backend's answer alone.
    rig.client.get(fields=BROWSER)
    rig.backend().answers(b"HTTP/1.1 500 No\r\nContent-Length: 5\r\n\r\ninner")
    assert rig.client.answer().body == b"inner"
    rig.over([404, 500])


def test_an_api_client_gets_the_backends_own_error(rig: Rig) -> None:
    serve(rig, page("404", file=1, intercept=True))
    rig.client.get(fields="Accept: application/json\r\n")
    rig.backend().answers(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}")
    answer = rig.client.answer()
    assert (answer.body, answer.field(b"x-gateway-error")) == (b"{}", None)
    rig.over([404])


def test_what_the_status_asks_of_the_client_goes_along(rig: Rig) -> None:
    serve(rig, page("4xx", "5xx", file=1, intercept=True))
    rig.client.get(fields=BROWSER)
    rig.backend().answers(
        b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n"
    )
    assert rig.client.answer().field(b"www-authenticate") == b"Basic realm=x"
    rig.client.get(fields=BROWSER)
    rig.backend().answers(b"HTTP/1.1 503 No\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n")
    answer = rig.client.answer()
    assert (answer.status, answer.all(b"retry-after")) == (503, [b"7"])
    rig.over([401, 503])
