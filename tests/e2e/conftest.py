"""One service in two colors behind the real command."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.gateway import GatewayProcess
from tests.support.upstream import Upstream, always


@dataclass(frozen=True)
class Platform:
    """A running gateway with one service (``web``); each color answers with its name."""

    gateway: GatewayProcess
    blue: Upstream
    green: Upstream


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    with Upstream(always(b"blue")) as blue, Upstream(always(b"green")) as green:
        gateway = GatewayProcess.for_services(
            tmp_path, {"web": ([blue.url], [green.url])}, workers=2
        )
        with gateway:
            yield Platform(gateway, blue, green)
