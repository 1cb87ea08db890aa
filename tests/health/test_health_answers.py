"""What checks expect and carry on: statuses, fields, places in JSON, captured values."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.health.answers import (
    ABSENT,
    MAX_CAPTURED,
    Answer,
    Expected,
    JsonRule,
    Request,
    UnfitError,
    captured,
    fill,
    find,
    judge,
)

DOCUMENT = {
    "status": "ok",
    "n": 3,
    "half": 0.5,
    "yes": True,
    "none": None,
    "items": [{"name": "first"}, {"name": "second"}],
    "a.b": {"c/d": 1, "~": 2, "": 3},
    "0": "zero",
}


def answer(status: int = 200, body: object = None, **fields: str) -> Answer:
    octets = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, {name.replace("_", "-"): text for name, text in fields.items()}, octets)


@pytest.mark.parametrize(
    ("expected", "status", "good"),
    [
        (("200",), 200, True),
        (("200",), 204, False),
        (("200", "204"), 204, True),
        (("2xx",), 299, True),
        (("2xx",), 300, False),
        (("404", "2xx"), 404, True),
    ],
)
def test_statuses(expected: tuple[str, ...], status: int, good: bool) -> None:
    said = judge(Expected(status=expected), answer(status))
    assert (said == "") is good
    if not good:
        assert said == f"answered {status}, expected {' or '.join(expected)}"


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("text/html", ""),
        ("text/*", ""),
        ("*", ""),
        ("text", 'field Content-Type is "text/html", expected text'),
        ("application/*", 'field Content-Type is "text/html", expected application/*'),
    ],
)
def test_fields(pattern: str, said: str) -> None:
    expected = Expected(fields=(("Content-Type", pattern),))
    assert judge(expected, answer(content_type="text/html")) == said
    assert judge(expected, answer()) == "has no field Content-Type"


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("status", "ok"),
        ("items.0.name", "first"),
        ("/items/1/name", "second"),
        ("items.2", ABSENT),
        ("items.-1", ABSENT),
        ("items.01", ABSENT),
        ("items.name", ABSENT),
        ("items.1.name.0", ABSENT),
        ("a.b", ABSENT),
        ("/a.b/c~1d", 1),
        ("/a.b/~0", 2),
        ("/a.b/", 3),
        ("0", "zero"),
        ("none", None),
    ],
)
def test_places(path: str, found: object) -> None:
    assert find(DOCUMENT, path) is found or find(DOCUMENT, path) == found


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (JsonRule("status", "equal", "ok"), ""),
        (JsonRule("status", "equal", "OK"), 'status is "ok", expected "OK"'),
        (JsonRule("n", "equal", 3.0), ""),
        (JsonRule("yes", "equal", 1), "yes is true, expected 1"),
        (JsonRule("yes", "equal", True), ""),
        (JsonRule("none", "equal", None), ""),
        (JsonRule("gone", "equal", None), "gone is missing"),
        (JsonRule("items", "equal", "x"), 'items is a list, expected "x"'),
        (JsonRule("none", "present", True), ""),
        (JsonRule("gone", "present", False), ""),
        (JsonRule("gone", "present", True), "gone is missing"),
        (JsonRule("n", "present", False), "n is there"),
        (JsonRule("n", "not", 4), ""),
        (JsonRule("n", "not", 3), "n is 3, expected not 3"),
        (JsonRule("gone", "not", 3), "gone is missing"),
        (JsonRule("n", "above", 2), ""),
        (JsonRule("n", "above", 3), "n is 3, expected a number above 3"),
        (JsonRule("half", "below", 0.6), ""),
        (JsonRule("yes", "above", 0), "yes is true, expected a number above 0"),
        (JsonRule("status", "below", 9), 'status is "ok", expected a number below 9'),
    ],
)
def test_values(rule: JsonRule, said: str) -> None:
    assert judge(Expected(json=(rule,)), answer(body=DOCUMENT)) == said


def test_a_long_value_is_cut_in_what_is_said() -> None:
    rule = JsonRule("x", "equal", "y")
    said = judge(Expected(json=(rule,)), answer(body={"x": "\x1b[2J" + "z" * 10_000}))
    assert len(said) < 100
    assert "\x1b" not in said


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b"[" * 100_000])
def test_what_is_no_json(body: bytes) -> None:
    rule = JsonRule("x", "present", False)
    assert judge(Expected(json=(rule,)), answer(body=body)) == "is not JSON"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    st.text(min_size=1),
)
def test_looking_never_raises(document: object, path: str) -> None:
    find(document, path)


# --- from one request to the next -----------------------------------------------------------------


def test_values_are_captured_from_the_body_and_from_fields() -> None:
    request = Request(
        path="/",
        capture=(
            ("id", "items.0.name"),
            ("n", "/n"),
            ("yes", "yes"),
            ("at", "field:Location"),
            ("session", "field:Set-Cookie"),
        ),
    )
    got = answer(body=DOCUMENT, location="/x/7", set_cookie="sid=abc; Path=/; HttpOnly")
    assert captured(request, got) == {
        "id": "first",
        "n": "3",
        "yes": "true",
        "at": "/x/7",
        "session": "sid=abc",
    }


@pytest.mark.parametrize("source", ["gone", "items", "none", "a.b", "field:Location"])
def test_a_value_that_is_not_there_fails_the_check(source: str) -> None:
    with pytest.raises(UnfitError, match="has no value"):
        captured(Request(path="/", capture=(("x", source),)), answer(body=DOCUMENT))


def test_a_captured_value_is_bounded() -> None:
    request = Request(path="/", capture=(("x", "x"),))
    with pytest.raises(UnfitError, match="longer"):
        captured(request, answer(body={"x": "y" * (MAX_CAPTURED + 1)}))


def test_values_are_made_safe_for_where_they_stand() -> None:
    nasty = '../a?b&c "d"'
    request = Request(
        method="POST",
        path="/items/{id}?q={id}&{other}",
        fields=(("Content-Type", "application/json"), ("X-Id", "<{id}>")),
        body='{"id": "{id}", "{other}": {}}',
    )
    filled = fill(request, {"id": nasty})
    assert filled.path == "/items/..%2Fa%3Fb%26c%20%22d%22?q=..%2Fa%3Fb%26c%20%22d%22&{other}"
    assert filled.body is not None
    assert json.loads(filled.body) == {"id": nasty, "{other}": {}}
    assert dict(filled.fields)["X-Id"] == f"<{nasty}>"
    plain = fill(Request(method="POST", path="/", body="id={id}"), {"id": nasty})
    assert plain.body == f"id={nasty}".encode()


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\x00", "é"])
def test_a_value_cannot_end_a_fields_line(value: str) -> None:
    with pytest.raises(UnfitError, match="X-Id"):
        fill(Request(path="/", fields=(("X-Id", "{id}"),)), {"id": value})


def test_a_value_is_not_filled_in_twice() -> None:
    assert fill(Request(path="/{a}{b}"), {"a": "{b}", "b": "c"}).path == "/%7Bb%7Dc"
