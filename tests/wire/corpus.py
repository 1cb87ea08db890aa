"""A fixed corpus of mutated heads and bodies, and what our parser makes of each.

``python -m tests.wire.corpus`` prints one digest a case: the test runs it where nothing is compiled
and compares. The seed stands here, so that a difference can be found again.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections import Counter
from dataclasses import dataclass

from gateway.wire import head
from tests.wire import shapes
from tests.wire.reading import Kind, Refused, cut_at, decode_cut, read_cut, read_whole
from tests.wire.shapes import edited

SEED = 9112
CASES = 2400


@dataclass(frozen=True, slots=True)
class Case:
    """Some octets, what to read them as (``body``: a chunked one), and where to cut them."""

    kind: Kind | None
    data: bytes
    places: tuple[int, ...]


def _first_line(chance: random.Random, kind: Kind) -> list[bytes]:
    if kind == "trailers":
        return []
    if kind != "request":
        return [chance.choice(shapes.STATUS_LINES)]
    minor = chance.choice((1, 1, 1, 1, 1, 1, 0, 0, 2))
    line = b"%b %b HTTP/1.%d" % (
        chance.choice(shapes.METHODS),
        chance.choice(shapes.TARGETS),
        minor,
    )
    return [line, b"Host: a"]


def _data(chance: random.Random, kind: Kind | None) -> bytes:
    if chance.random() < 0.04:
        return chance.randbytes(chance.randrange(60))
    if kind is None:
        return chance.choice(shapes.BODIES)
    lines = _first_line(chance, kind)
    if chance.random() < 0.02:
        # At the bound of the number of fields, on both sides of it.
        lines += [b"A: b"] * (chance.randrange(head.MAX_FIELDS - 3, head.MAX_FIELDS + 3))
    lines += chance.choices(shapes.LINES, k=chance.randrange(7))
    return b"\r\n".join((*lines, b"", b"")) + chance.choice((b"", b"", b"GET / HTTP/1.1\r\n"))


def cases(seed: int = SEED, count: int = CASES) -> list[Case]:
    """Return the corpus: the same for the same seed and count."""
    chance = random.Random(seed)
    kinds: tuple[Kind | None, ...] = ("request", "response", "response-to-head", "trailers", None)
    made = []
    for _ in range(count):
        kind = chance.choices(kinds, (10, 6, 2, 2, 8))[0]
        edits = [
            (
                chance.choice(shapes.EDITS),
                chance.randrange(10_000),
                chance.choice(shapes.PIECES) if chance.random() < 0.8 else chance.randbytes(1),
            )
            for _ in range(chance.choice((0, 1, 1, 1, 2, 3)))
        ]
        places = tuple(chance.randrange(10_000) for _ in range(chance.randrange(6)))
        made.append(Case(kind, edited(_data(chance, kind), edits), places))
    return made


def results(case: Case) -> tuple[object, object]:
    """Return what is made of a case: whole, and cut."""
    pieces = cut_at(case.data, case.places)
    if case.kind is None:
        return decode_cut([case.data]), decode_cut(pieces)
    return read_whole(case.kind, case.data), read_cut(case.kind, pieces)


def digest(case: Case) -> str:
    return hashlib.sha256(repr(results(case)).encode()).hexdigest()[:16]


def summary(made: list[Case]) -> Counter[str]:
    """Count what came of the cases: ``Read``, ``Decoded``, ``NoneType`` or a refusal's kind."""
    return Counter(
        whole.kind if isinstance(whole, Refused) else type(whole).__name__
        for whole, _ in map(results, made)
    )


def main() -> int:
    form = "compiled" if head.__file__.endswith((".so", ".pyd")) else "plain"
    print(form, *map(digest, cases()), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
