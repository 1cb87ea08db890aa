"""``gateway demo --check``: what a visitor does, through the gateway, with an opinion on it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

import aiohttp

from gateway.admin import models
from gateway.client.api import AdminClient
from gateway.client.link import Link

TIMEOUT = 20.0

#: At 50 % all of them are on one side once in a million times.
VISITORS = 21


class SelfTestError(Exception):
    """Something through the gateway is not as it should be."""


def expect(fact: bool, what: str) -> None:
    """Raise SelfTestError with ``what`` unless ``fact``."""
    if not fact:
        raise SelfTestError(what)


async def self_test(public: str, link: Link, say: Callable[[str], None]) -> None:
    """Visit everything on blue, everything on green, and blue again after a rollback.

    Raises SelfTestError at the first thing that is not right, or aiohttp's or the client's own
    errors.
    """
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    async with (
        aiohttp.ClientSession(public, timeout=timeout) as session,
        AdminClient(link) as admin,
    ):
        await _visit(session, "blue", say)
        everything = models.TrafficChange.model_validate({"candidate": 100.0, "reason": "check"})
        moved = (await admin.set_traffic(everything)).value
        expect(moved.applied_in_ms is not None, "the gateway does not say when it had moved")
        say(f"moved everything to green in {moved.applied_in_ms:.1f} ms")
        await _visit(session, "green", say)
        await _split(session, admin, say)
        await admin.rollback(models.RollbackRequest(reason="check"))
        say("rolled back")
        await _visit(session, "blue", say)


async def _split(
    session: aiohttp.ClientSession, admin: AdminClient, say: Callable[[str], None]
) -> None:
    """Halve the traffic; expect each visitor on one side, also where the website calls on."""
    half = models.TrafficChange.model_validate({"candidate": 50.0, "reason": "check"})
    await admin.set_traffic(half)
    seen: dict[str, int] = {"blue": 0, "green": 0}
    for _ in range(VISITORS):
        async with session.get("/today", headers={"Accept": "text/html"}) as response:
            text = await response.text()
        page = re.findall(r'data-color="(\w+)"', text)
        answerers = re.findall(r'data-answerer="\w+">(\w+)<', text)
        expect(len(page) == 1 and len(answerers) == 3, f"/today: {response.status}, or not whole")
        expect(set(answerers) == set(page), f"/today: a {page[0]} page with answers of {answerers}")
        seen[page[0]] += 1
        session.cookie_jar.clear()  # the next one is somebody else
    expect(all(seen.values()), f"at 50 % all of {VISITORS} visitors were on one side")
    say(f"50 %: {seen['blue']} visitors on blue, {seen['green']} on green, each with one side")


async def _visit(session: aiohttp.ClientSession, color: str, say: Callable[[str], None]) -> None:
    """Do what the page does, and expect one color everywhere."""
    steps: dict[str, Callable[[aiohttp.ClientSession, str], Awaitable[None]]] = {
        "website": _page,
        "events": _events,
        "newsroom": _newsroom,
        "ivor": _chat,
        "live": _live,
    }
    for name, step in steps.items():
        try:
            await step(session, color)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise SelfTestError(f"{name} on {color}: {error or type(error).__name__}") from error
    say(f"{color}: {', '.join(steps)} answer")


async def _json(session: aiohttp.ClientSession, path: str, color: str) -> None:
    async with session.get(path) as response:
        expect(response.status == 200, f"{path}: status {response.status}, expected 200")
        answerer = (await response.json()).get("color")
        expect(answerer == color, f"{path}: {answerer} answered, expected {color}")


async def _page(session: aiohttp.ClientSession, color: str) -> None:
    async with session.get("/") as response:
        expect(response.status == 200, f"/: status {response.status}, expected 200")
        text = await response.text()
    expect(f'data-color="{color}"' in text, f"/: not the {color} page")
    assets = re.findall(r'(?:href|src)="(/assets/[^"]+)"', text)
    expect(len(assets) == 3, f"/: {len(assets)} assets, expected 3")
    for path in assets:
        async with session.get(path) as response:
            expect(response.status == 200, f"{path}: status {response.status}, expected 200")


async def _events(session: aiohttp.ClientSession, color: str) -> None:
    await _json(session, "/api/events/upcoming", color)


async def _newsroom(session: aiohttp.ClientSession, color: str) -> None:
    await _json(session, "/api/newsroom/articles", color)


async def _chat(session: aiohttp.ClientSession, color: str) -> None:
    path = "/api/ivor/chat"
    async with session.get(path, params={"q": "Are you there?"}) as response:
        expect(response.status == 200, f"{path}: status {response.status}, expected 200")
        text = await response.text()
    expect(f'"color": "{color}"' in text, f"{path}: not answered by {color}")
    expect("event: done" in text, f"{path}: the stream ended early")


async def _live(session: aiohttp.ClientSession, color: str) -> None:
    path = "/api/events/live"
    async with session.ws_connect(path) as live:
        expect((await live.receive_json()).get("color") == color, f"{path}: not {color}")
        await live.send_str("hello")
        expect((await live.receive_json()).get("echo") == "hello", f"{path}: no echo")
