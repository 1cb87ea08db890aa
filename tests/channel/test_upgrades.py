"""The journal of upgrades that the supervisor writes and control reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.channel import upgrades
from gateway.channel.upgrades import Journal, Step


def step(name: str, id_: str = "a", **more: object) -> Step:
    return Step(id=id_, step=name, at=1.5, **more)  # type: ignore[arg-type]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    assert Journal.read(tmp_path) == Journal()
    journal = Journal()
    journal.add(step(upgrades.ASKED, old="1", uid=1000, user="me"))
    journal.add(step(upgrades.FAILED, old="1", new="2", text="no", seconds=2.5, way_back=False))
    journal.write(tmp_path)
    again = Journal.read(tmp_path)
    assert again.steps == journal.steps
    assert +again.counts == +journal.counts == {"failed": 1}
    assert [each.name for each in tmp_path.iterdir()] == [upgrades.FILE]


def test_it_is_bounded() -> None:
    journal = Journal()
    for number in range(100):
        journal.add(step(upgrades.REFUSED, str(number), text="x" * 100_000))
    assert len(journal.steps) == upgrades.KEPT
    assert journal.steps[-1].id == "99"
    assert journal.counts["refused"] == 100
    assert len(journal.encode()) < 100_000  # it is carried in one variable: 128 KiB on Linux


def test_the_one_under_way_is_found_behind_others_that_were_refused() -> None:
    journal = Journal()
    journal.add(step(upgrades.ASKED, "a"))
    journal.add(step(upgrades.TRIED, "a"))
    journal.add(step(upgrades.REFUSED, "b"))
    left = [journal.under_way]
    journal.add(step(upgrades.DONE, "a"))
    left.append(journal.under_way)
    assert left == [step(upgrades.TRIED, "a"), None]


def test_who_asked_in_words() -> None:
    assert step("asked").by == "SIGUSR2"
    assert step("asked", uid=0).by == "uid 0"
    assert step("asked", uid=0, user="root, sudo by me").by == "uid 0 (root, sudo by me)"


def test_steps_and_fields_of_a_newer_version_are_left_out() -> None:
    known = {"id": "a", "step": "asked", "at": 1.0, "mood": "good"}
    text = json.dumps({"steps": [known, {**known, "step": "pondered"}], "counts": {"odd": 3}})
    journal = Journal.decode(text)
    assert journal.steps == [Step(id="a", step="asked", at=1.0)]
    assert not +journal.counts


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"steps": 5}', '{"steps": [{}]}', '{"counts": 1}']
)
def test_what_is_no_journal_is_an_empty_one(text: str) -> None:
    assert Journal.decode(text) == Journal()
