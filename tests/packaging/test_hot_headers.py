"""The headers by which compiled modules see each other, and when a binary is passed over."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gateway.hot import HOT_MODULES, current_extension, needed_headers
from gateway.hotheaders import headers
from tests.support.processes import ROOT

UPPER = '''
from __future__ import annotations
from typing import TYPE_CHECKING
import cython
if TYPE_CHECKING:
    from shop.lower import Box
from shop.lower import (
    Other,
    packed,
)


@cython.cclass
class Shelf:
    """Text."""

    boxes: list[Box]
    box: Box | None = cython.declare(object, visibility="readonly")

    @cython.ccall
    @cython.exceptval(-1)
    def put(self, box: Box, names: tuple[int, ...], at: cython.int = 0) -> cython.bint:
        return packed(box) == Other
'''
LOWER = """
import cython


@cython.final
@cython.cclass
class Box:
    _places = cython.declare(cython.int[8])
    wide: cython.double

    @cython.cfunc
    def open(self, name: bytes) -> bytes: ...

    def plain(self) -> None: ...


@cython.ccall
def packed(box: Box) -> bytes: ...


class Other: ...
"""


def made(folder: Path, upper: str = UPPER, lower: str = LOWER) -> dict[str, str]:
    (folder / "shop").mkdir(exist_ok=True)
    (folder / "shop" / "upper.py").write_text(upper)
    (folder / "shop" / "lower.py").write_text(lower)
    found = headers(folder, ["shop.lower", "shop.upper"])
    return {f"{name}.{what}": getattr(found[name], what) for name in found for what in KINDS}


KINDS = ("text", "copy", "digest")


def test_a_header_has_classes_and_what_others_may_call(tmp_path: Path) -> None:
    assert made(tmp_path)["shop.lower.text"].splitlines() == [
        "cimport cython",
        "cdef class Box",
        "@cython.final",
        "cdef class Box:",
        "    cdef int[8] _places",
        "    cdef double wide",
        "    cdef bytes open(self, bytes name)",
        "cpdef bytes packed(Box box)",
    ]


def test_what_stands_before_is_cimported_and_what_stands_behind_is_not(tmp_path: Path) -> None:
    text = made(tmp_path)["shop.upper.text"]
    assert "from shop.lower cimport Box, packed" in text
    assert "    cdef list[Box] boxes\n" in text
    assert "    cdef readonly Box box\n" in text
    assert "cpdef bint put(self, Box box, tuple names, int at=*) except? -1" in text
    turned = headers(tmp_path, ["shop.upper", "shop.lower"])
    assert "from shop" not in turned["shop.upper"].text
    assert turned["shop.upper"].needs == {}


def test_what_is_compiled_is_line_for_line_the_source(tmp_path: Path) -> None:
    copy = made(tmp_path)["shop.upper.copy"].split("\n")
    assert len(copy) == len(UPPER.split("\n"))
    assert "from shop.lower import Other" in copy
    assert not any("visibility" in line for line in copy)
    assert next(n for n, line in enumerate(copy) if "def put" in line) == next(
        n for n, line in enumerate(UPPER.split("\n")) if "def put" in line
    )


def test_another_layout_below_is_another_digest_above_and_another_body_is_not(
    tmp_path: Path,
) -> None:
    before = made(tmp_path)
    body = made(tmp_path, lower=LOWER.replace("def plain(self) -> None: ...", "def p(self): pass"))
    assert body["shop.upper.digest"] == before["shop.upper.digest"]
    wider = made(tmp_path, lower=LOWER.replace("    wide:", "    more: cython.int\n    wide:"))
    assert wider["shop.upper.text"] == before["shop.upper.text"]
    assert wider["shop.upper.digest"] != before["shop.upper.digest"]


def test_a_binary_is_passed_over_where_its_neighbours_layout_is_another(tmp_path: Path) -> None:
    def source(root: Path, name: str) -> Path:
        return root.joinpath(*name.split(".")).with_suffix(".py")

    upper, lower = "gateway.proxy.record", "gateway.wire.head"
    binary = current_extension(source(ROOT, upper))
    if binary is None:
        pytest.skip("nothing is compiled here (no C compiler, or GATEWAY_NO_COMPILED)")
    needed = needed_headers(binary.read_bytes())
    assert lower in needed
    shutil.copytree(ROOT / "gateway", tmp_path / "gateway", ignore=shutil.ignore_patterns("__py*"))
    assert current_extension(source(tmp_path, upper)) is not None
    below = current_extension(source(tmp_path, lower))
    assert below is not None
    below.write_bytes(below.read_bytes().replace(needed[lower].encode(), b"0" * 64))
    assert current_extension(source(tmp_path, upper)) is None
    assert current_extension(source(tmp_path, "gateway.proxy.hexes")) is not None


def test_a_module_stands_behind_those_whose_types_it_needs() -> None:
    found = headers(ROOT, list(HOT_MODULES))
    places = {name: at for at, name in enumerate(found)}
    assert "gateway.wire.head" in found["gateway.proxy.exchange"].needs
    for name, header in found.items():
        assert all(places[need] < places[name] for need in header.needs)
