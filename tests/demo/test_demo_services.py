"""The demo's services, each in this process, asked as the page asks them."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from gateway.config.snapshot import Color
from gateway.demo import ivor
from gateway.demo.identity import Identity
from gateway.demo.knob import MAX_SLOW_MS, Change, Knob, Setting, changed
from gateway.demo.service import HOST, Service, make_app, make_control_app
from gateway.demo.website import PASSED_ON

Client = TestClient[web.Request, web.Application]
MakeClient = Callable[[web.Application], Awaitable[Client]]


def app_of(service: str, color: Color = "blue", knob: Knob | None = None) -> web.Application:
    return make_app(Identity(service=service, color=color), knob or Knob())


@pytest.mark.parametrize("service", ["website", "ivor", "events", "newsroom"])
async def test_every_service_is_healthy_and_signs_its_answers(
    aiohttp_client: MakeClient, service: str
) -> None:
    client = await aiohttp_client(app_of(service, "green"))
    response = await client.get("/health")
    assert response.status == 200
    assert (await response.json())["status"] == "ok"
    assert response.headers["X-Demo-Service"] == service
    assert response.headers["X-Demo-Color"] == "green"
    assert response.headers["X-Demo-Instance"] == f"{service}-green-1"


@pytest.mark.parametrize(
    ("service", "path", "key"),
    [
        ("events", "/api/events/upcoming", "events"),
        ("newsroom", "/api/newsroom/articles", "articles"),
        ("ivor", "/api/ivor/resources", "resources"),
    ],
)
async def test_lists_say_who_answered(
    aiohttp_client: MakeClient, service: str, path: str, key: str
) -> None:
    client = await aiohttp_client(app_of(service, "blue"))
    body = await (await client.get(path)).json()
    assert body[key]
    assert body["color"] == "blue"


async def test_the_chat_streams_words_and_ends_with_done(aiohttp_client: MakeClient) -> None:
    app = app_of("ivor", "green")
    app[ivor.PACE_KEY] = 0.0
    client = await aiohttp_client(app)
    response = await client.get("/api/ivor/chat", params={"q": "Who are you?"})
    assert response.content_type == "text/event-stream"
    text = await response.text()
    names = re.findall(r"^event: (\w+)$", text, re.MULTILINE)
    assert names[0] == "who"
    assert names[-1] == "done"
    words = [json.loads(found)["text"] for found in re.findall(r'^data: (\{"text.*)$', text, re.M)]
    assert "Who are you?" in " ".join(words)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"q": "  "}', b"\xff"])
async def test_a_chat_without_a_question_is_a_bad_request(
    aiohttp_client: MakeClient, body: bytes
) -> None:
    client = await aiohttp_client(app_of("ivor"))
    assert (await client.post("/api/ivor/chat", data=body)).status == 400
    assert (await client.get("/api/ivor/chat")).status == 400


async def test_ivor_passes_its_own_test(aiohttp_client: MakeClient) -> None:
    client = await aiohttp_client(app_of("ivor"))
    assert (await (await client.get("/api/chat/selftest")).json())["status"] == "ok"


async def test_the_live_socket_greets_and_echoes(aiohttp_client: MakeClient) -> None:
    client = await aiohttp_client(app_of("events", "green"))
    async with client.ws_connect("/api/events/live") as socket:
        assert (await socket.receive_json())["color"] == "green"
        await socket.send_str("hello")
        assert await socket.receive_json() == {"echo": "hello", "color": "green"}
        await socket.send_bytes(b"\x00\x01")
        assert await socket.receive_bytes() == b"\x00\x01"


async def test_an_upload_is_counted(aiohttp_client: MakeClient) -> None:
    client = await aiohttp_client(app_of("newsroom"))
    response = await client.post("/api/newsroom/upload", data=b"x" * 100_000)
    assert (await response.json())["length"] == 100_000


async def test_the_page_names_its_color_and_only_its_own_assets_are_served(
    aiohttp_client: MakeClient,
) -> None:
    pages = {}
    for color in ("blue", "green"):
        client = await aiohttp_client(app_of("website", color))
        text = await (await client.get("/")).text()
        assert f'data-color="{color}"' in text
        assert "@COLOR@" not in text
        names = re.findall(r'(?:href|src)="(/assets/[^"]+)"', text)
        assert len(names) == 3
        for name in names:
            asset = await client.get(name)
            assert asset.status == 200
            assert "immutable" in asset.headers["Cache-Control"]
            assert "@COLOR@" not in await asset.text()
        pages[color] = (client, names)
    for name in pages["green"][1]:
        assert (await pages["blue"][0].get(name)).status == 404


async def test_the_page_needs_nothing_from_elsewhere_and_nothing_inline(
    aiohttp_client: MakeClient,
) -> None:
    client = await aiohttp_client(app_of("website"))
    text = await (await client.get("/")).text()
    assert not re.search(r'(?:href|src)="https?:', text)
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script>", text)


async def test_the_banner_is_an_empty_live_region_until_a_script_says_otherwise(
    aiohttp_client: MakeClient,
) -> None:
    client = await aiohttp_client(app_of("website"))
    text = await (await client.get("/")).text()
    assert re.findall(r'<p id="platform"[^>]*role="status"[^>]*></p>', text)
    script = re.search(r'src="(/assets/app[^"]+)"', text)
    assert script is not None
    asked = await (await client.get(script[1])).text()
    assert '"/.well-known/gateway/status"' in asked
    style = re.search(r'href="(/assets/style[^"]+)"', text)
    assert style is not None
    assert ".banner:empty { display: none; }" in await (await client.get(style[1])).text()


async def test_every_input_of_the_page_has_a_label_and_every_box_a_heading(
    aiohttp_client: MakeClient,
) -> None:
    client = await aiohttp_client(app_of("website"))
    text = await (await client.get("/")).text()
    assert '<html lang="en"' in text
    for found in re.findall(r'<input id="([^"]+)"', text):
        assert f'<label for="{found}">' in text
    for found in re.findall(r'<section aria-labelledby="([^"]+)"', text):
        assert f'<h2 id="{found}">' in text


async def test_the_websites_own_calls_quote_the_visitors_side(aiohttp_client: MakeClient) -> None:
    heard: list[dict[str, str]] = []

    async def answer(request: web.Request) -> web.Response:
        heard.append({name: request.headers.get(name, "") for name in PASSED_ON})
        if request.path == "/api/newsroom/articles":
            return web.Response(status=503)
        if request.path == "/api/events/upcoming":
            return web.json_response({}, headers={"X-Gateway-Served-By": "static"})
        return web.json_response({"color": "green<", "instance": "i"})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    gateway = await aiohttp_client(app)
    identity = Identity(service="website", color="blue")
    website = await aiohttp_client(make_app(identity, Knob(), str(gateway.make_url(""))))
    quoted = {name: f"value of {name}" for name in PASSED_ON}
    text = await (await website.get("/today", headers={**quoted, "X-Other": "x"})).text()
    assert heard == [quoted] * 3
    assert text.count("green&lt;") == 2
    assert "failed</span> 503" in text
    assert text.count("a static page") == 1


async def test_a_website_that_knows_no_gateway_says_so(aiohttp_client: MakeClient) -> None:
    assert (await (await aiohttp_client(app_of("website"))).get("/today")).status == 503


# --- the knob -----------------------------------------------------------------------------------


async def test_the_failing_share_is_drawn_for_each_request(aiohttp_client: MakeClient) -> None:
    draws = iter([0.2, 0.6, 0.49, 0.5])
    client = await aiohttp_client(app_of("events", "blue", Knob(chance=lambda: next(draws))))
    assert (await client.post("/_demo", json={"fail": 0.5})).status == 200
    statuses = [(await client.get("/api/events/upcoming")).status for _ in range(4)]
    assert statuses == [500, 200, 500, 200]
    assert (await client.get("/health")).status == 200


async def test_slowness_comes_before_the_answer_and_spares_health(
    aiohttp_client: MakeClient,
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    client = await aiohttp_client(app_of("events", "blue", Knob(sleep=sleep)))
    await client.post("/_demo", json={"slow_ms": 1500})
    await client.get("/health")
    assert slept == []
    await client.get("/api/events/upcoming")
    assert slept == [1.5]


async def test_unhealthy_fails_the_probe_alone(aiohttp_client: MakeClient) -> None:
    client = await aiohttp_client(app_of("events"))
    await client.post("/_demo", json={"unhealthy": True})
    assert (await client.get("/health")).status == 503
    assert (await client.get("/api/events/upcoming")).status == 200


async def test_a_change_keeps_what_it_does_not_name(aiohttp_client: MakeClient) -> None:
    client = await aiohttp_client(app_of("events"))
    await client.post("/_demo", json={"slow_ms": 5})
    body = await (await client.post("/_demo", json={"unhealthy": True})).json()
    assert body == {"slow_ms": 5, "fail": 0.0, "dead": False, "unhealthy": True}
    assert await (await client.get("/_demo")).json() == body


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b'{"fail": 2}', "fail"),
        (b'{"slow_ms": -1}', "slow_ms"),
        (b'{"slow": 1}', "slow"),
        (b"{", "truncated"),
    ],
)
async def test_a_bad_change_is_refused_and_changes_nothing(
    aiohttp_client: MakeClient, body: bytes, word: str
) -> None:
    client = await aiohttp_client(app_of("events"))
    response = await client.post("/_demo", data=body, headers={"Content-Type": "application/json"})
    assert response.status == 400
    assert word in (await response.json())["error"]
    assert (await (await client.get("/_demo")).json())["fail"] == 0.0


async def test_a_form_of_a_web_page_cannot_turn_the_knob(aiohttp_client: MakeClient) -> None:
    client = await aiohttp_client(app_of("events"))
    response = await client.post("/_demo", data=b'{"dead": true}')
    assert response.status == 415


def test_the_bounds_of_slowness() -> None:
    assert changed(Setting(), Change(slow_ms=MAX_SLOW_MS)).slow_ms == MAX_SLOW_MS
    with pytest.raises(ValueError, match="slow_ms"):
        changed(Setting(), Change(slow_ms=MAX_SLOW_MS + 1))


async def test_a_dead_service_resets_what_is_open_and_refuses_until_revived(
    aiohttp_client: MakeClient,
) -> None:
    knob = Knob()
    service = Service(Identity(service="events", color="blue"), knob, 0)
    await service.start()
    control = await aiohttp_client(make_control_app(knob))
    url = f"http://{HOST}:{service.port}"
    try:
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(f"{url}/api/events/live") as socket:
                await socket.receive_json()
                await control.post("/_demo", json={"dead": True})
                assert (await socket.receive()).type in {
                    aiohttp.WSMsgType.CLOSED,
                    aiohttp.WSMsgType.ERROR,
                }
            with pytest.raises(aiohttp.ClientConnectionError):
                await session.get(f"{url}/health")
            await control.post("/_demo", json={"dead": False})
            async with session.get(f"{url}/health") as response:
                assert response.status == 200
    finally:
        await service.stop()
