"""Releases with the real command: every scenario in its short form, on one demo platform.

The bars are those of ``make chaos``. What is measured is printed (``-s`` shows it).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.chaos.__main__ import judged
from loadtests.chaos.stage import SHORT, Stage
from loadtests.chaos.verdict import Check, table
from loadtests.releases.platform import Platform
from loadtests.releases.scenarios import RELEASES, WHOLE_ONLY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder: Path = tmp_path_factory.mktemp("releases")
    with Stage(folder) as stage:
        yield Platform.on(stage)


@pytest.mark.parametrize("name", [each for each in RELEASES if each not in WHOLE_ONLY])
def test_a_release_ends_as_it_must_and_nobody_notices(name: str, demo: Platform) -> None:
    def played() -> list[Check]:
        demo.settle()
        return RELEASES[name](demo, SHORT)

    verdict = judged(name, played)
    print(f"\n{table([verdict])}")
    assert verdict.ok, f"\n{table([verdict])}\n{demo.gateway.tail()}"
