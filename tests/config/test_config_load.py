"""Whole files: what is told of wrong ones, line by line, and what right ones cost."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.load import ConfigErrors, Loaded, Problem, load_file, parse_text

if TYPE_CHECKING:
    from collections.abc import Iterator

RIGHT = """\
version: 1
services:
  web:
    blue: {endpoints: ["http://127.0.0.1:3001"]}
routes:
  - {path: /, service: web}
"""


def told(text: str) -> list[str]:
    """Return what is told of a wrong file, a line each."""
    with pytest.raises(ConfigErrors) as caught:
        parse_text(text.encode(), "f", {})
    return str(caught.value).splitlines()


def loaded(text: str) -> Loaded:
    return parse_text(text.encode(), "f", {})


def wrong_files() -> Iterator[tuple[str, str, list[str]]]:
    """Yield the cases of wrong_files.txt: name, file, what is told of it."""
    text = Path(__file__).with_name("wrong_files.txt").read_text(encoding="utf-8")
    for case in text.split("\n## ")[1:]:
        name, *lines = case.rstrip("\n").split("\n")
        file = [line for line in lines if not line.startswith(">> ")]
        yield (
            name,
            "".join(f"{line}\n" for line in file),
            [line.removeprefix(">> ") for line in lines if line.startswith(">> ")],
        )


@pytest.mark.parametrize(
    ("text", "lines"),
    [pytest.param(text, lines, id=name) for name, text, lines in wrong_files()],
)
def test_a_wrong_file_is_told_exactly(text: str, lines: list[str]) -> None:
    assert told(text) == lines


def test_the_base_of_these_tables_is_right() -> None:
    assert loaded(RIGHT).warnings == ()


def test_every_error_of_a_file_is_told_at_once_in_its_order() -> None:
    text = """\
verison: 1
listen: [{address: 0.0.0.0}]
services:
  ivor:
    blue: {endpoints: []}
    depends_on: [web]
    retries: 1
    retries: 0123
  web:
    green: {endpoints: ["http://x/y"]}
    depends_on: [ivor]
    timeouts: {conect: 5}
routes:
  - {path: api, service: ivr}
"""
    assert [line.partition(": ")[0] for line in told(text)] == [
        "f:1:1",
        "f:2:20",
        "f:5:23",
        "f:6:17",
        "f:8:5",
        "f:10:5",
        "f:10:25",
        "f:12:16",
        "f:14:12",
        "f:14:26",
    ]


def test_errors_count_and_are_not_endless() -> None:
    lines = told("services:\n" + "".join(f"  s{i}: {{}}\n" for i in range(500)))
    assert len(lines) == 201
    assert lines[-1].endswith(" more")


def test_a_file_that_is_not_there_is_an_error_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    with pytest.raises(ConfigErrors) as caught:
        load_file(path, {})
    assert str(caught.value) == f"{path}:1:1: cannot be read: No such file or directory"


def test_a_folder_or_a_fifo_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo"):
        with pytest.raises(ConfigErrors, match="cannot be read"):
            load_file(path, {})


def test_a_file_is_loaded_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(RIGHT, encoding="utf-8")
    assert list(load_file(path, {}).services) == ["web"]


def test_ten_thousand_routes_load_in_sane_time() -> None:
    routes = "".join(
        f"  - {{host: h{i % 100}.example, path: /a/{i}/b, service: web, strip: true}}\n"
        for i in range(10_000)
    )
    text = RIGHT + routes
    begun = time.process_time()
    config = loaded(text).config
    spent = time.process_time() - begun
    assert len(config.routes) == 10_001
    # About 1 s on the machine this was written on; a quadratic step would take minutes.
    assert spent < 10


@given(st.binary(max_size=200))
def test_whatever_a_file_holds_there_is_an_answer(octets: bytes) -> None:
    with pytest.raises(ConfigErrors) as caught:
        parse_text(octets, "f", {})
    assert caught.value.problems


_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 10**6),
    st.sampled_from(["off", "5s", "1MiB", "/", "web", "http://x:1", "10.0.0.0/8", "", "é", "x\ny"]),
)
_KEYS = st.sampled_from(
    (
        *("services", "web", "blue", "endpoints", "routes", "path", "service", "listen", "admin"),
        *("tokens", "health", "L2", "retry", "timeouts", "security", "profiles", "triggers", "zz"),
    )
)
_TREES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_KEYS, inner, max_size=4)),
    max_leaves=25,
)


@given(st.dictionaries(_KEYS, _TREES, max_size=6))
def test_whatever_shape_a_file_has_there_is_an_answer(tree: dict[str, object]) -> None:
    text = json.dumps(tree)  # JSON is YAML
    problems: tuple[Problem, ...] = ()
    try:
        loaded(text)
    except ConfigErrors as errors:
        problems = errors.problems
    assert all(problem.line == 1 for problem in problems)
    assert all(1 <= problem.column <= len(text) + 1 for problem in problems)
