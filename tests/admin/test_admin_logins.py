"""Failed logins: limited by address, never at the cost of another's, told in a few rows."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from gateway.admin.logins import (
    BURST,
    MAX_ADDRESSES,
    MAX_KNOWN,
    REPORT_AFTER,
    REPORT_AT_MOST,
    SECONDS_PER_GUESS,
    Logins,
    Report,
)
from tests.control.world import OPERATOR, VIEWER, World, client, running

GOOD = b"good"


class Desk:
    """Logins on a clock of the test's own."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.told: list[Report] = []
        self.logins = Logins(self.told.append, lambda: self.now)

    def guess(self, address: str = "192.0.2.1", token: bytes = b"bad") -> bool:
        """Present a token; tell whether it was looked at."""
        if self.logins.wait(address, token) > 0:
            return False
        if token == GOOD:
            self.logins.succeeded(address, token)
        else:
            self.logins.failed_from(address)
        return True


def test_an_address_has_a_burst_and_then_one_guess_in_a_while() -> None:
    desk = Desk()
    assert sum(desk.guess() for _ in range(1000)) == BURST
    assert desk.logins.wait("192.0.2.1", b"x") == pytest.approx(SECONDS_PER_GUESS)
    admitted = 0
    for _ in range(600):
        desk.now += 1.0
        admitted += desk.guess()
    assert admitted == pytest.approx(600 / SECONDS_PER_GUESS, abs=1)


def test_a_right_token_is_no_guess_until_there_were_too_many() -> None:
    desk = Desk()
    for _ in range(BURST):
        desk.guess()
    assert not desk.guess(token=GOOD)
    desk.now += SECONDS_PER_GUESS
    assert desk.guess(token=GOOD)


@pytest.mark.parametrize("other", ["192.0.2.2", "2001:db8:0:1::1", "unix"])
def test_nobody_is_locked_out_by_another_address(other: str) -> None:
    desk = Desk()
    for _ in range(5000):
        desk.guess("192.0.2.1")
        desk.guess("2001:db8::1")
    assert desk.guess(other, GOOD)


def test_a_token_that_was_good_from_an_address_stays_good_there() -> None:
    """A monitor with an old token beside the pipeline must not take a rollback from it."""
    desk = Desk()
    assert desk.guess("127.0.0.1", GOOD)
    for _ in range(5000):
        desk.guess("127.0.0.1")
    assert desk.guess("127.0.0.1", GOOD)
    assert not desk.guess("127.0.0.1", b"another")


def test_a_64_of_ipv6_is_one_address() -> None:
    desk = Desk()
    assert sum(desk.guess(f"2001:db8::{at:x}") for at in range(1, 1000)) == BURST
    assert sum(desk.guess(f"::ffff:192.0.2.{at}") for at in range(1, 5)) == 4
    assert desk.guess("192.0.2.1")


def test_memory_is_bounded() -> None:
    desk = Desk()
    for at in range(20_000):
        desk.guess(f"10.{at >> 16}.{at >> 8 & 255}.{at & 255}")
        desk.logins.succeeded("192.0.2.1", b"%d" % at)
    assert len(desk.logins._empty_at) == MAX_ADDRESSES
    assert len(desk.logins._known) == MAX_KNOWN
    assert len(desk.logins._since) <= MAX_ADDRESSES
    assert "20000 failed" in repr(desk.logins)


def test_a_flood_is_told_in_a_few_reports_that_miss_none() -> None:
    desk = Desk()
    attempts = 0
    for _ in range(24 * 3600):
        desk.now += 1.0
        for _ in range(3):
            desk.guess()
            attempts += 1
    desk.now += REPORT_AT_MOST
    desk.logins.turn()
    assert len(desk.told) < 36
    assert sum(each.attempts for each in desk.told) == attempts == desk.logins.failed
    assert desk.told[0] == Report(1, 0, (("192.0.2.1", 1),), 0)
    assert desk.told[-1].refused > 0
    # Long after, the next one is told at once, and the one after that soon.
    desk.now += 2 * REPORT_AT_MOST
    desk.logins.turn()
    before = len(desk.told)
    desk.guess()
    assert len(desk.told) == before + 1
    desk.guess()
    desk.now += REPORT_AFTER
    desk.logins.turn()
    assert len(desk.told) == before + 2


# --- through the API ------------------------------------------------------------------------------


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path, workers=1) as world:
        assert world.control is not None
        world.control.logins.burst = 3
        yield world


async def test_guessing_is_429_with_retry_after(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with client(world, VIEWER) as viewer:
        assert (await viewer.get("/v1/status")).status == 200
    async with client(world, "a-secret-guess") as guesser:
        statuses = [(await guesser.get("/v1/status")).status for _ in range(6)]
        assert statuses == [401, 401, 401, 429, 429, 429]
        async with guesser.put("/v1/traffic", json={"candidate": 1}) as answer:
            assert answer.status == 429
            assert 0 < int(answer.headers["Retry-After"]) <= SECONDS_PER_GUESS
            text = await answer.text()
            assert json.loads(text)["type"] == "urn:gateway:too-many-failed-logins"
            assert "a-secret-guess" not in text
    # What is no guess goes on: nobody's calls, and a token that was good from here.
    async with aiohttp.ClientSession(world.url) as nobody:
        assert (await nobody.get("/healthz")).status == 200
        assert (await nobody.get("/v1/status")).status == 401
        async with nobody.get("/metrics") as answer:
            metrics = await answer.text()
        assert 'gateway_admin_logins_failed_total{result="unknown"} 3.0' in metrics
        assert 'gateway_admin_logins_failed_total{result="limited"} 4.0' in metrics
    async with client(world, VIEWER) as viewer:
        assert (await viewer.get("/v1/status")).status == 200
    # The socket in the gateway's own folder has a count of its own.
    connector = aiohttp.UnixConnector(str(world.path / "run" / "admin.sock"))
    headers = {"Authorization": f"Bearer {OPERATOR}"}
    async with aiohttp.ClientSession("http://x", connector=connector, headers=headers) as local:
        async with asyncio.timeout(5):
            while not (rows := await _failed(local)):
                await asyncio.sleep(0)
    assert len(rows) == 1
    assert (rows[0]["actor"], rows[0]["address"]) == ("nobody", "127.0.0.1")
    assert "a-secret-guess" not in caplog.text
    assert "a-secret-guess" not in json.dumps(rows)


async def _failed(api: aiohttp.ClientSession) -> list[dict[str, object]]:
    async with api.get("/v1/audit") as answer:
        rows = (await answer.json())["rows"]
    return [row for row in rows if row["action"] == "login.failed"]
