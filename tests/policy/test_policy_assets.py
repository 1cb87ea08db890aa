"""Assets: which paths they are, and when HTML is a miss."""

from __future__ import annotations

import pytest

from gateway.policy.assets import AssetPaths, wrong_type


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/assets/app.4f2a.js", True),
        (b"/assets/", True),
        (b"/assets", False),
        (b"/assetsx", False),
        (b"/x/assets/a", False),
        (b"/favicon.ico", True),
        (b"/favicon.ico/x", False),
        (b"/build-17/x", True),
        (b"/", False),
    ],
)
def test_patterns(path: bytes, expected: bool) -> None:
    assert AssetPaths(["/assets/*", "/favicon.ico", "/build-*"]).matches(path) is expected


def test_no_patterns_match_nothing_and_one_can_match_all() -> None:
    assert not AssetPaths([]).matches(b"/assets/x")
    assert AssetPaths(["/*"]).matches(b"/x")


@pytest.mark.parametrize("pattern", ["", "*", "assets/*", "/a*b", "/**"])
def test_other_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="begins with"):
        AssetPaths([pattern])


@pytest.mark.parametrize(
    ("path", "content_type", "expected"),
    [
        (b"/a.js", b"text/html", True),
        (b"/a.css", b"Text/HTML; charset=utf-8", True),
        (b"/a.mjs", b"text/html", True),
        (b"/a.js", b"text/javascript", False),
        (b"/a.js", None, False),
        (b"/a.js", b"", False),
        (b"/a.html", b"text/html", False),
        (b"/js", b"text/html", False),
    ],
)
def test_html_where_a_script_was_asked_for(
    path: bytes, content_type: bytes | None, expected: bool
) -> None:
    assert wrong_type(path, content_type) is expected
