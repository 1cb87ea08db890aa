"""The kept inputs of each target: ``corpus/TARGET.txt``, one Python bytes literal a line.

Text, so that a review reads what a finding was. ``seeds`` makes up more from the shapes that the
tests of the wire know, so that the files hold only what nobody would have thought of.
"""

from __future__ import annotations

import ast
import random
from pathlib import Path

from tests.fuzz.targets import TARGETS
from tests.wire import corpus, shapes
from tests.wire.reading import Kind

FOLDER = Path(__file__).parent / "corpus"

#: Octets of an input that is kept, and inputs of a target.
MAX_OCTETS = 400
MAX_KEPT = 60


def kept(target: str) -> list[bytes]:
    """Return a target's kept inputs."""
    path = FOLDER / f"{target}.txt"
    if not path.exists():
        return []
    lines = path.read_text(encoding="ascii").splitlines()
    found = [ast.literal_eval(line) for line in lines if line and not line.startswith("#")]
    assert all(isinstance(each, bytes) for each in found), target
    return found


def keep(target: str, inputs: list[bytes]) -> int:
    """Write a target's inputs anew, the shortest of them; return how many."""
    chosen = sorted({each for each in inputs if 0 < len(each) <= MAX_OCTETS}, key=_order)
    step = max(1, -(-len(chosen) // MAX_KEPT))
    chosen = chosen[::step]
    FOLDER.mkdir(exist_ok=True)
    text = "".join(f"{each!r}\n" for each in chosen)
    (FOLDER / f"{target}.txt").write_text(text, encoding="ascii")
    return len(chosen)


def _order(data: bytes) -> tuple[int, bytes]:
    return len(data), data


def seeds(target: str) -> list[bytes]:
    """Return inputs to begin with: what is kept, and what the tests of the wire are made of."""
    assert target in TARGETS, target
    chance = random.Random(target)
    made = kept(target)
    kinds: dict[str, set[Kind | None]] = {
        "request_head": {"request"},
        "response_head": {"response", "response-to-head", "trailers"},
        "chunked": {None},
        "connection": {"request", None},
        "backend": {"response"},
    }
    wanted = kinds.get(target)
    if wanted is not None:
        made += [case.data for case in corpus.cases(count=400) if case.kind in wanted]
        if target in {"connection", "backend"}:
            heads = [each for each in made if each]
            made += [chance.choice(heads) + chance.choice(shapes.BODIES) for _ in range(40)]
    elif target == "target":
        made += list(shapes.TARGETS)
    else:
        made += [line.partition(b":")[2] for line in shapes.LINES]
        made += FIELD_SEEDS
    return made


FIELD_SEEDS = [
    b"1.2.3.4, 10.0.0.2|https",
    b'for="[2001:db8::1]:80";host=a;proto=https, for=10.0.0.3|a.example:80',
    b"a=b; gw_cohort=AAAAAAAAAAAAAAAAAAAAAA; gw_override=1.candidate.1999999999.x; c",
    b"a?gw_override=p.green.1999999999.web.x&b=c",
    b'max-age=5, no-cache="a, b", private, s-maxage="6", max-stale\nbytes=0-5\n"a", W/"b"',
    b"Sun, 06 Nov 1994 08:49:37 GMT\nSunday, 06-Nov-94 08:49:37 GMT\nSun Nov  6 08:49:37 1994",
    b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    b'{"candidate": 5, "services": ["web"], "stable": 95}',
    b'{"endpoints": ["http://10.0.0.1:80"], "wait": "5s"}',
    b'{"reason": "x", "release": "1", "to": "blue", "plan": {"steps": [{"weight": 5}]}}',
    b'"17", "18"',
]
