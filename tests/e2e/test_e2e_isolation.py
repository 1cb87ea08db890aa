"""An isolated color gets nothing, whoever asks, until it is lifted: real processes and sockets."""

from __future__ import annotations

import os
import secrets
import signal
import time
from pathlib import Path
from typing import Literal

from gateway.policy.override import mint
from gateway.wire.websocket import GOING_AWAY
from tests.support.gateway import GatewayProcess
from tests.support.processes import wait_until
from tests.support.rawclient import RawClient
from tests.support.upstream import Conversation, Script, Upstream

SECRET = "cohort-secret-" + "2" * 24
UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


def named(color: bytes) -> Script:
    """Answer with the color's name, and every upgrade with a tunnel that stays open."""

    def script(say: Conversation) -> None:
        while True:
            head = say.read_head()
            if b"websocket" in head.lower():
                say.send(SWITCHED)
                say.read_to_end()
                return
            say.read_body(head)
            say.answer(color)

    return script


def asked(upstream: Upstream) -> int:
    """Count requests of clients; probes ask for something else."""
    return sum(b" /work" in head for head in upstream.heads)


def override(release: str, side: Literal["stable", "candidate"]) -> str:
    ends = int(time.time()) + 60
    return mint(SECRET.encode(), host="test.example", release=release, side=side, expires=ends)


def everybody(gateway: GatewayProcess, release: str) -> set[bytes]:
    """Ask as 60 visitors, a tester and an internal caller, the tester for a tunnel, too."""
    token = override(release, "candidate")
    who = [f"Cookie: gw_cohort={secrets.token_urlsafe(16)}\r\n" for _ in range(60)]
    who += [f"gw_override: {token}\r\n", f"Cookie: gw_override={token}\r\n"]
    who.append(
        f"X-Release-Id: {release}\r\nX-Release-Role: candidate\r\n"
        f"X-Release-Key: {secrets.token_hex(8)}\r\n"
    )
    found = set()
    for fields in who:
        with RawClient(gateway.port) as client:
            found.add(client.get("/work", fields).body)
    return found


def tunnel(gateway: GatewayProcess, fields: str = "") -> RawClient:
    client = RawClient(gateway.port)
    client.send(f"GET /work HTTP/1.1\r\nHost: test.example\r\n{UPGRADE}{fields}\r\n".encode())
    assert client.answer().status == 101
    client.socket.settimeout(5)
    return client


def test_an_isolated_color_gets_nothing_until_it_is_lifted(tmp_path: Path) -> None:
    with Upstream(named(b"blue")) as blue, Upstream(named(b"green")) as green:
        gateway = GatewayProcess.for_services(
            tmp_path,
            {"web": ([blue.url], [green.url])},
            workers=2,
            extra="traffic: {cohort: {secret_env: GATEWAY_TEST_COHORT}}\n"
            "internal_callers: [127.0.0.1/32]\n",
            env={"GATEWAY_TEST_COHORT": SECRET},
        )
        with gateway:
            gateway.set_weight(50)
            release = str(gateway.api("GET", "/v1/status").body["release"])
            assert everybody(gateway, release) == {b"blue", b"green"}
            there = tunnel(gateway, f"gw_override: {override(release, 'candidate')}\r\n")
            elsewhere = tunnel(gateway, f"gw_override: {override(release, 'stable')}\r\n")

            path = "/v1/services/web/isolate"
            answer = gateway.api("POST", path, {"color": "green", "reason": "its disk is full"})
            assert answer.status == 200
            before = asked(green)
            assert everybody(gateway, release) == {b"blue"}
            assert there.read_to_end() == GOING_AWAY, "the tunnel there goes on"
            there.socket.close()
            # A new tunnel is stable's, whoever asks for it.
            tunnel(gateway, f"gw_override: {override(release, 'candidate')}\r\n").socket.close()

            # It outlives control, workers and the whole gateway.
            states = gateway.api("GET", "/v1/status").body["processes"]
            for role in ("worker", "control"):
                for each in states:
                    if each["role"] == role:
                        os.kill(each["pid"], signal.SIGKILL)
                wait_until(gateway.is_ready, f"{role} is back")
                assert everybody(gateway, release) == {b"blue"}
            elsewhere.socket.close()
            assert gateway.stop() == 0
            gateway.start()
            assert everybody(gateway, release) == {b"blue"}
            assert asked(green) == before
            (web,) = gateway.api("GET", "/v1/status").body["services"]
            assert [(each["color"], each["isolated"]) for each in web["pools"]] == [
                ("blue", False),
                ("green", True),
            ]
            (row,) = (
                row
                for row in gateway.api("GET", "/v1/audit").body["rows"]
                if row["action"] == "isolate"
            )
            assert (row["actor"], row["reason"]) == ("test", "its disk is full")
            assert gateway.api("DELETE", f"{path}?color=green").status == 200
            wait_until(lambda: b"green" in everybody(gateway, release), "green is back", 10)
