"""Every conversation is played twice: as it is written, and octet by octet in both directions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.rig import Rig


@pytest.fixture(params=["whole", "octets"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    made = Rig(octets=request.param == "octets")
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def whole() -> Iterator[Rig]:
    """One whose reads are as large as they were sent: for large bodies."""
    made = Rig()
    try:
        yield made
    finally:
        made.close()
