"""The page's colors can be told from their backgrounds (WCAG 2.2, 1.4.3: at least 4.5 to 1)."""

from __future__ import annotations

import re
from importlib import resources

import pytest

CSS = resources.files("gateway.demo").joinpath("site", "style.css").read_text("utf-8")

#: Text on its background, as the style uses them.
PAIRS = [
    ("text", "page"),
    ("text", "card"),
    ("quiet", "page"),
    ("quiet", "card"),
    ("blue", "card"),
    ("green", "card"),
    ("bad", "card"),
    ("on-color", "blue"),
    ("on-color", "green"),
    ("on-color", "bad"),
    ("on-color", "quiet"),
]


def scheme(dark: bool) -> dict[str, str]:
    blocks = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    assert len(blocks) == 2
    colors: dict[str, str] = {}
    for block in blocks[: 2 if dark else 1]:
        colors |= dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block))
    return colors


def luminance(color: str) -> float:
    """Relative luminance (WCAG 2.2, definitions)."""
    channels = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("text", "behind"), PAIRS)
def test_text_stands_out(dark: bool, text: str, behind: str) -> None:
    colors = scheme(dark)
    low, high = sorted((luminance(colors[text]), luminance(colors[behind])))
    assert (high + 0.05) / (low + 0.05) >= 4.5
