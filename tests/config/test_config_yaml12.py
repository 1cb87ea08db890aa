"""YAML as the core schema of 1.2 has it, by both composers, and what a document may cost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import yaml12
from gateway.config.yaml12 import COMPOSERS, Mark, parse

BOTH = pytest.mark.parametrize("composer", COMPOSERS, ids=lambda composer: composer.__name__)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # YAML 1.2.2 section 10.3.2, and what 1.1 took for something else.
        ("true", True),
        ("False", False),
        ("tRUE", "tRUE"),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("no", "no"),
        ("y", "y"),
        ("null", None),
        ("~", None),
        ("", None),
        ("nULL", "nULL"),
        ("12", 12),
        ("-12", -12),
        ("+12", 12),
        ("0", 0),
        ("0o14", 12),
        ("0xC", 12),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2001-12-14", "2001-12-14"),
        ("12e3", 12e3),
        ("1.5", 1.5),
        (".5", 0.5),
        ("0.5", 0.5),
        ("1.", 1.0),
        (".", "."),
        ("1.2.3", "1.2.3"),
        ("0b1", "0b1"),
        ("=", "="),
        ("'012'", "012"),
        ('"on"', "on"),
        ("'~'", "~"),
        ("|\n  a\n  b\n", "a\nb\n"),
    ],
)
@BOTH
def test_a_scalar_is_what_the_core_schema_says(text: str, value: object, composer: Any) -> None:
    document = parse(f"key: {text}\n".encode(), composer)
    assert document.faults == []
    assert document.data == {"key": value}
    assert type(document.data["key"]) is type(value)


@pytest.mark.parametrize("text", ["012", "-012", "+00", "08", "01.5"])
def test_a_leading_zero_is_refused(text: str) -> None:
    (fault,) = parse(f"key: {text}\n".encode()).faults
    assert "in quotes for text" in fault.message


@pytest.mark.parametrize("text", [".inf", "-.INF", ".nan", "9" * 31, "1e" + "9" * 40])
def test_a_number_that_is_none_to_work_with_is_refused(text: str) -> None:
    (fault,) = parse(f"key: {text}\n".encode()).faults
    assert fault.mark == Mark(1, 6)


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system [id]",
        "!!binary aGk=",
        "!!int '5'",
        "!custom {a: 1}",
        "!!set {a}",
    ],
)
@BOTH
def test_a_tag_makes_nothing(text: str, composer: Any) -> None:
    document = parse(f"key: {text}\n".encode(), composer)
    assert [fault.message for fault in document.faults] == [
        "tags (!…) are not supported, expected plain values"
    ]
    assert document.data == {"key": None}


@BOTH
def test_an_alias_repeats_a_value(composer: Any) -> None:
    document = parse(b"a: &x {b: [1]}\nc: *x\n", composer)
    assert document.data == {"a": {"b": (1,)}, "c": {"b": (1,)}}


@BOTH
def test_an_alias_within_its_own_value_is_refused(composer: Any) -> None:
    document = parse(b"a: &x [1, *x]\n", composer)
    assert [fault.message for fault in document.faults] == [
        "an alias (*…) stands within what it stands for"
    ]


@BOTH
def test_aliases_that_unfold_to_billions_are_refused(composer: Any) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    document = parse("\n".join(lines).encode(), composer)
    assert "aliases unfold to too much" in document.faults[-1].message


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
@BOTH
def test_a_document_that_is_nested_too_deep_is_refused(opening: str, composer: Any) -> None:
    # libyaml's composer recurses in C: without the bound this is the end of the process.
    text = opening * 200_000 if composer is COMPOSERS[0] else opening * 300
    (fault,) = parse(text.encode(), composer).faults
    assert fault.message == f"nested too deep, expected at most {yaml12.MAX_DEPTH} levels"


def test_a_document_may_be_nested_as_deep_as_it_says() -> None:
    levels = yaml12.MAX_DEPTH - 1
    assert parse(("[" * levels + "]" * levels).encode()).faults == []


def test_a_file_that_is_too_large_is_refused() -> None:
    (fault,) = parse(b" " * (yaml12.MAX_FILE + 1)).faults
    assert fault.message == "the file is too large, expected at most 16 MiB"


@pytest.mark.parametrize(
    ("octets", "mark"),
    [
        (b"a: 1\nb: \xff\n", Mark(2, 4)),
        ("é: 1\nü: ".encode() + b"\xff\n", Mark(2, 4)),
        (b"a: \x00\n", Mark(1, 4)),
        ("a: 1\nb: \u200bx\ud7ff\ufffe\n".encode(), Mark(2, 7)),
    ],
)
def test_octets_that_are_no_text_are_told_by_their_place(octets: bytes, mark: Mark) -> None:
    (fault,) = parse(octets).faults
    assert fault.mark == mark


def test_a_byte_order_mark_moves_no_position() -> None:
    document = parse("\ufeffa: 0123\n".encode())
    assert document.faults[0].mark == Mark(1, 4)


@BOTH
def test_each_value_knows_its_place(composer: Any) -> None:
    document = parse("a:\n  - é: x\n    b: [1, 2]\n".encode(), composer)
    assert document.mark(()) == Mark(1, 1)
    assert document.mark(("a",), at_key=True) == Mark(1, 1)
    assert document.mark(("a",)) == Mark(2, 3)
    assert document.mark(("a", 0, "é")) == Mark(2, 8)
    assert document.mark(("a", 0, "b", 1)) == Mark(3, 12)
    assert document.mark(("a", 0, "b"), at_key=True) == Mark(3, 5)
    # What is not there is told at the nearest that is.
    assert document.mark(("a", 0, "b", 7)) == Mark(3, 8)
    assert document.mark(("zz", "y")) == Mark(1, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("? [a]\n: 1\n", "a key is not text"),
        ("true: 1\n", "the key true is not text"),
        ("1: 1\n", "the key 1 is not text"),
        ("012: 1\n", "the key 012 is not text"),
        ("~: 1\n", "a key is empty"),
        ("<<: {a: 1}\n", "merge keys"),
        ('"a\\0": 1\n', "control characters"),
        ("a: 1\n'a': 2\n", "duplicate key"),
    ],
)
@BOTH
def test_a_key_is_text_and_stands_once(text: str, message: str, composer: Any) -> None:
    (fault,) = parse(text.encode(), composer).faults
    assert message in fault.message


def test_a_quoted_key_is_text_whatever_it_looks_like() -> None:
    assert parse(b"'1': a\n'<<': b\n").data == {"1": "a", "<<": "b"}


# Without `!`: an empty scalar with that tag alone is null to one and text to the other.
@given(st.text(st.characters(exclude_characters="!"), max_size=60))
def test_both_composers_make_the_same_of_a_document(text: str) -> None:
    """Or both refuse it; where they differ in syntax, libyaml's word holds."""
    documents = [parse(text.encode("utf-8", "surrogatepass"), composer) for composer in COMPOSERS]
    clean = [document for document in documents if not document.faults]
    if len(clean) == len(documents):
        assert all(document.data == clean[0].data for document in clean)
