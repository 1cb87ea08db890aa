"""The OpenAPI document is true: schemathesis drives the real application by it.

``GATEWAY_SCHEMATHESIS_EXAMPLES=200`` is the long form.
"""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings

from gateway.admin.openapi import document
from gateway.version import VERSION
from tests.control.world import ADMIN, World, client, running

EXAMPLES = int(os.environ.get("GATEWAY_SCHEMATHESIS_EXAMPLES", "8"))


class Running:
    """A world whose loop turns in a thread: schemathesis' client blocks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._up = threading.Event()
        self._down: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.url = ""
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._turn, name="world")
        self._thread.start()
        self._up.wait(20)
        if self._failure is not None:
            raise self._failure

    def _turn(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001  handed to the test's thread
            self._failure = error
        finally:
            self._up.set()

    async def _serve(self) -> None:
        self._loop, self._down = asyncio.get_running_loop(), asyncio.Event()
        async with running(self._path) as world:
            self._world: World = world
            self.url = world.url
            self._up.set()
            await self._down.wait()

    def releases(self, *, running: bool) -> str:
        """See to it that a release is under way, or none; return the last one's id, if any."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(self._releases(running), self._loop).result(20)

    async def _releases(self, running: bool) -> str:
        world = self._world
        assert world.control is not None
        switch = world.control.switchboard
        async with client(world) as api:
            if (switch.state.running is not None) is not running:
                # What other calls have left may refuse a start: then this one is about no release.
                await (await api.post("/v1/rollback", json={"force": True})).read()
                for _ in range(1000):
                    if switch.state.run is None or switch.state.run.over:
                        break
                    await asyncio.sleep(0.002)
                if running:
                    await (await api.post("/v1/releases", json={"force": True})).read()
        return switch.state.run.id if switch.state.run is not None else "none"

    def close(self) -> None:
        if self._loop is not None and self._down is not None:
            self._loop.call_soon_threadsafe(self._down.set)
        self._thread.join(20)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running_world = Running(tmp_path_factory.mktemp("world"))
    yield running_world
    running_world.close()


schema = schemathesis.openapi.from_dict(document(VERSION)).exclude(path="/v1/events")


def in_this_world(case: schemathesis.Case[Any], release: str) -> None:
    """Let valid data name what there is.

    A revision that is not in force is 412, a key that was used 422, a service that is not
    configured 404 or 422: schemathesis takes these for refusals of valid data.
    """
    if "If-Match" in case.headers:
        case.headers["If-Match"] = "*"
    if "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = str(uuid.uuid4())
    if "service" in case.path_parameters:
        case.path_parameters["service"] = "ivor"
    if "endpoint" in case.path_parameters:
        case.path_parameters["endpoint"] = "events-blue-1-0"  # ivor's pools are replaced meanwhile
    if isinstance(case.body, dict) and case.body.get("services") is not None:
        case.body["services"] = ["ivor", "events"]
    if isinstance(case.body, dict) and "steps" in case.body:
        case.body["steps"] = [{"weight": 5, "hold": "1h"}, {"weight": 100}]  # they rise to 100
    if isinstance(case.body, dict) and "pools" in case.body:
        case.body["pools"] = {}  # of services that are in the release
    if isinstance(case.body, dict) and "endpoints" in case.body:
        case.body["wait"] = "20ms"
    if case.path == "/v1/releases" and isinstance(case.body, dict):
        for name in ("steps", "pools"):  # that rise to 100, and are of these generations
            case.body[name] = None
    if "id" in case.path_parameters:
        case.path_parameters["id"] = "current" if len(case.path_parameters["id"]) % 2 else release


def sent_as_generated(case: schemathesis.Case[Any]) -> None:
    """Give a parameter that is not one a value: of an empty list nothing would be sent."""
    for name, value in (case.query or {}).items():
        if value in ([], {}):
            case.query[name] = "x"


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_the_document_is_true(case: schemathesis.Case[Any], served: Running) -> None:
    positive = case.meta is not None and case.meta.generation.mode.is_positive
    start = case.path == "/v1/releases" and case.method == "POST"
    release = "none"
    # With a release under way nothing else moves traffic, and half of its calls are about that one.
    if positive or not start:
        release = served.releases(running=case.path.startswith("/v1/releases") and not start)
    if positive:
        in_this_world(case, release)
    else:
        sent_as_generated(case)
    case.call_and_validate(base_url=served.url, headers={"Authorization": f"Bearer {ADMIN}"})
