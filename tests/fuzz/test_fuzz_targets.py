"""The fuzzer's targets in the suite: what was worth keeping, and some seconds of new inputs.

Both forms of the hot modules: ``python -m tests.fuzz.replay`` runs in the other one. The long form
is ``make fuzz``.
"""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.wire import head
from tests.fuzz.corpus import FOLDER, kept, seeds
from tests.fuzz.run import ROOT
from tests.fuzz.targets import TARGETS
from tests.wire import shapes
from tests.wire.shapes import edited

#: Seconds of new inputs, of each target.
SECONDS = float(os.environ.get("GATEWAY_FUZZ_SECONDS", "1"))
#: Octets that readers disagree about, and what the admin API reads.
PIECES = (*shapes.PIECES, b'"', b"{", b"[", b"null", b"1e999", b"\\u0000", b"%00", b"%2f", b"..;")


@pytest.fixture(autouse=True, scope="module")
def _cheap_collections() -> Iterator[None]:
    """The targets collect after each input: what all other tests have left is passed over."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def test_every_target_has_inputs_of_its_own() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(TARGETS)
    assert all(kept(name) for name in TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_kept(name: str) -> None:
    for data in kept(name):
        TARGETS[name](data)


def test_what_is_kept_in_the_other_form() -> None:
    if not str(head.__file__).endswith((".so", ".pyd")):
        pytest.skip("the wire modules are not compiled here: there is nothing to compare")
    run = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.replay"],
        cwd=ROOT,
        env={**os.environ, "GATEWAY_NO_COMPILED": "1"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("plain ")


@pytest.mark.parametrize("name", TARGETS)
def test_new_inputs(name: str) -> None:
    """Edits of what is kept, for as long as there is time; a failure says its input."""
    chance = random.Random(os.environ.get("GATEWAY_FUZZ_SEED", f"{name}-5"))
    known = [each for each in seeds(name) if len(each) <= 400]
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        edits = [
            (
                chance.choice(shapes.EDITS),
                chance.randrange(1000),
                chance.choice(PIECES) if chance.random() < 0.7 else chance.randbytes(1),
            )
            for _ in range(chance.randrange(1, 5))
        ]
        data = edited(chance.choice(known), edits)
        try:
            TARGETS[name](data)
        except Exception as error:
            raise AssertionError(f"{name} of {data!r}") from error


CHEAP = [name for name in TARGETS if name not in {"connection", "backend"}]


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(CHEAP), st.binary(max_size=120))
def test_any_octets(name: str, data: bytes) -> None:
    TARGETS[name](data)
