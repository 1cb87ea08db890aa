"""docs/api.md has every call and every kind of event, and none that is not there."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

from gateway.admin.calls import CALLS
from tests.control.world import OPERATOR, World, client, running
from tests.support.processes import ROOT

PAGE = (ROOT / "docs" / "api.md").read_text()
#: What is published, with its fields.
KINDS = {
    kind: re.findall(r"`(\w+)`", fields.partition(";")[0])
    for kind, fields in re.findall(r"^\| `([\w-]+)` \| [^|]+ \| ([^|]+) \|$", PAGE, re.MULTILINE)
}


def test_the_table_is_the_calls() -> None:
    rows = re.findall(r"^\| `([A-Z]+) (/\S*)` \| (\w+|\W) \| (.+) \|$", PAGE, re.MULTILINE)
    told = [(method, path, role if role.isalpha() else None, text)
            for method, path, role, text in rows]  # fmt: skip
    assert told == [(each.method, each.path, each.role, each.summary) for each in CALLS]


def test_every_kind_of_event_has_its_row() -> None:
    folders = [ROOT / "gateway" / "control", ROOT / "gateway" / "admin"]
    sources = "".join(path.read_text() for folder in folders for path in folder.glob("*.py"))
    published = set(re.findall(r"events\.publish\(\s*\"([\w-]+)\"", sources))
    assert published == set(KINDS)
    [summary] = [each.summary for each in CALLS if each.name == "events"]
    assert set(summary.partition(": ")[2].split(", ")) == set(KINDS)


def test_the_dashboard_asks_what_there_is() -> None:
    page = (ROOT / "gateway" / "admin" / "pages" / "dashboard.html").read_text()
    asked = set(re.findall(r"fetch\(\"([^\"]+)\"", page))
    assert asked == {"/v1/status", "/v1/releases/current"}
    known = {each.path.replace("{id}", "current") for each in CALLS if each.role == "viewer"}
    assert asked <= known


async def test_a_release_tells_what_the_page_says(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        await begin(world)
        path = "/v1/releases/current/abort"
        async with client(world, OPERATOR) as api, api.post(path, json={}) as answer:
            assert answer.status == 200
        assert world.control is not None
        told = [(each.kind, json.loads(each.data)) for each in world.control.events.since("none")]
    for kind in ("release", "traffic"):
        assert [list(data) for name, data in told if name == kind][-1] == KINDS[kind]
    alerts = [data for name, data in told if name == "alert"]
    assert alerts
    assert list(alerts[0]) == ["severity", "about", "hint", *KINDS["release"]]
    assert {each["about"] for each in alerts} == {"release"}


async def begin(world: World) -> None:
    body = {"steps": [{"weight": 5, "hold": "1h"}, {"weight": 100, "hold": "1h"}]}
    async with client(world, OPERATOR) as api, api.post("/v1/releases", json=body) as answer:
        assert answer.status == 201
    assert world.control is not None
    switch = world.control.switchboard
    async with asyncio.timeout(10):
        while switch.state.run is None or switch.state.run.state != "stepping":
            await asyncio.sleep(0.02)
