"""Slow clients against a real gateway, a few of them; what the long form says of its rounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests import slow
from loadtests.slow import Held, Options
from loadtests.steady import Steady
from tests.support.processes import need


def steady(p99: float) -> Steady:
    return Steady(100.0, 100.0, 1.0, p99, p99, 0.1, 0)


def held(before: float, under: float, let_go: float | None = 20.0) -> Held:
    return Held(steady(before), steady(under), steady(1), steady(1), 2000, 0.03, 0.01, 0, let_go)


def test_the_table_has_the_medians_of_the_rounds() -> None:
    rounds = [held(1.0, 1.5), held(1.0, 4.0), held(2.0, 3.0)]
    row = slow.render({"bodies": rounds}).splitlines()[2]
    assert row.startswith(
        "| bodies | 2000 (2000-2000) | 1.0 (1.0-2.0) | 3.0 (1.5-4.0) | 1.50 (1.50-4.00) |"
    )
    assert "| 2.0 (2.0-2.0) |" in row  # of a core, less what the normal client takes
    never = slow.render({"heads": [held(1.0, 1.0, None), held(1.0, 1.0)]})
    assert "| never |" in never


def test_a_mode_that_is_none_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        slow.main(["bodys"])
    assert "no such mode: bodys" in capsys.readouterr().err


@pytest.mark.slow
def test_slow_clients_are_let_go_when_their_time_is_over(tmp_path: Path) -> None:
    """The short form: the gateway ends them, none of them leaves by itself; nobody else notices.

    The other modes are played in tests/outside.
    """
    mode = "bodies"
    need("nginx")
    need("slowhttptest")
    options = Options(modes=(mode,), connections=60, seconds=1.0, ramp=1.0, patience=4.0)
    stage = slow.begin(tmp_path, options)
    try:
        one = slow.attack(stage, mode, options)
    finally:
        stage.gateway.stop()
        stage.backend.stop()
    assert one.most > 40
    assert one.loaded.errors == 0
    assert one.loaded.p99_ms < 500
    # A reader's answer may be under way when its silence begins.
    assert one.let_go is not None
    assert one.let_go < options.patience * 2 + 2
