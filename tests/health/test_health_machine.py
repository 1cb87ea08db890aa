"""Health's table, whole."""

from __future__ import annotations

import itertools

import pytest

from gateway.board import layout
from gateway.health.machine import TABLE, Health, Level, combined

UNKNOWN, UP, DOWN = Health.UNKNOWN, Health.UP, Health.DOWN


def test_the_table_is_whole_and_the_values_are_the_boards() -> None:
    assert set(TABLE) == set(itertools.product(Health, (True, False)))
    assert [each.word for each in Health] == list(layout.HEALTH_NAMES)


@pytest.mark.parametrize(
    ("probes", "states"),
    [
        ("+", "U"),
        ("-", "?"),
        ("---", "??D"),
        ("--+", "??U"),
        ("+--+", "UUUU"),
        ("+---", "UUUD"),
        ("---+", "??DD"),
        ("---++", "??DDU"),
        ("---+-++", "??DDDDU"),
        ("+--+--+---", "UUUUUUUUUD"),
    ],
)
def test_rise_and_fall(probes: str, states: str) -> None:
    level = Level()
    seen = ""
    for probe in probes:
        level = level.after(probe == "+", rise=2, fall=3)
        seen += {UNKNOWN: "?", UP: "U", DOWN: "D"}[level.health]
    assert seen == states


@pytest.mark.parametrize(
    ("levels", "health"),
    [
        ([], UNKNOWN),
        ([UP], UP),
        ([UP, UNKNOWN], UNKNOWN),
        ([UP, UP], UP),
        ([DOWN, UNKNOWN], DOWN),
        ([UP, DOWN], DOWN),
    ],
)
def test_an_endpoint_is_as_good_as_its_levels(levels: list[Health], health: Health) -> None:
    assert combined([Level(each) for each in levels]) is health
