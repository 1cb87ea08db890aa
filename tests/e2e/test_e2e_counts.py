"""However a request ends, it is counted once and has one line; what is no request has none."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.demo.ports import free_ports
from loadtests.soak.account import Scrape, class_of
from tests.support.certificates import Authority
from tests.support.gateway import GatewayProcess
from tests.support.processes import wait_until
from tests.support.rawclient import RawClient
from tests.support.upstream import Conversation, Upstream

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

AUTHORITY = Authority()
HOST = "Host: x.example\r\n"
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def backend(say: Conversation) -> None:
    """Answer as the path's last part says."""
    while True:
        head = say.read_head()
        method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
        name = target.rpartition("/")[2]
        if name in ENDS:
            ENDS[name](say)
            return
        if b"100-continue" in head.lower():
            say.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        say.read_body(head)
        if name == "204":
            say.send(b"HTTP/1.1 204 Said\r\n\r\n")
        elif name.isdigit():
            say.answer(b"", f"{name} Said")
        elif name == "large":
            say.answer(b"x" * (8 << 20))
        elif name == "cached":
            say.answer(b"copy", fields="Cache-Control: max-age=60\r\n")
        elif name == "stale" and sum(b"/stale " in each for each in say.heads) > 1:
            say.answer(b"", "503 Service Unavailable")
        elif name == "stale":
            say.answer(b"copy", fields="Cache-Control: max-age=0\r\n")
        else:
            say.answer(b"" if method == "HEAD" else b"ok")


def early(say: Conversation) -> None:
    say.answer(b"no", "413 Content Too Large", "Connection: close\r\n")
    say.finish_writing()
    say.read_to_end()


def echo(say: Conversation) -> None:
    fields = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
    say.send(f"HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n".encode())
    say.send(say.read_exactly(4))
    say.read_to_end()


def cut(say: Conversation) -> None:
    say.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    time.sleep(0.2)
    say.reset()


def events(say: Conversation, *, many: int = 1000) -> None:
    say.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
    say.send(b"Transfer-Encoding: chunked\r\n\r\n")
    for _ in range(many):
        say.send(b"9\r\ndata: 0\n\n\r\n")
        time.sleep(0.1)
    say.reset()


#: What ends the conversation.
ENDS: dict[str, Callable[[Conversation], None]] = {
    "reset": Conversation.reset,
    "hang": Conversation.hang,
    "early": early,
    "ws": echo,
    "cut": cut,
    "events": events,
    "cut-events": lambda say: events(say, many=2),
}


def broken(say: Conversation) -> None:
    say.read_head()
    say.reset()


@dataclass
class Rig:
    """The gateway under test, its ports, and the lines of its log that were read."""

    gateway: GatewayProcess
    tls: int
    redirect: int
    log: Path
    read: int = 0
    #: Cases by name: the statuses of the lines that each has left.
    seen: dict[str, list[int]] = field(default_factory=dict)
    #: What clients were told where it is not sure before.
    told: dict[str, list[int]] = field(default_factory=dict)

    @property
    def port(self) -> int:
        return self.gateway.port

    def lines(self) -> list[int]:
        if not self.log.exists():
            return []
        return [int(json.loads(line)["status"]) for line in self.log.read_bytes().splitlines()]

    def play(self, case: Case) -> None:
        case.act(self)
        deadline = time.monotonic() + 8.0
        while len(self.lines()) < self.read + len(case.lines) and time.monotonic() < deadline:
            time.sleep(0.02)
        if not case.lines:
            time.sleep(0.4)
        lines = self.lines()
        self.seen[case.name] = lines[self.read :]
        self.read = len(lines)


@dataclass(frozen=True)
class Case:
    """What a client does, and the statuses of the lines that are to come of it."""

    name: str
    lines: tuple[int, ...]
    act: Callable[[Rig], None]


def head(target: str, method: str = "GET", fields: str = "") -> bytes:
    return f"{method} {target} HTTP/1.1\r\n{HOST}{fields}\r\n".encode()


def said(data: bytes, *statuses: int, to: str = "port") -> Callable[[Rig], None]:
    """Send octets; read an answer for each status."""

    def act(rig: Rig) -> None:
        with RawClient(getattr(rig, to)) as client:
            client.send(data)
            for status in statuses:
                answer = client.answer(to_head=data.startswith(b"HEAD"))
                if answer.status == 100:
                    answer = client.answer()
                assert answer.status == status, (data[:60], answer)

    return act


def ask(target: str, status: int, method: str = "GET", fields: str = "", times: int = 1) -> Case:
    """One request (or some, each on a connection of its own) and its answer."""

    def act(rig: Rig) -> None:
        for _ in range(times):
            said(head(target, method, fields), status)(rig)

    return Case(f"{method} {target} {fields[:24].strip()}".strip(), (status,) * times, act)


def gone(data: bytes, *, after: float = 0.3, reset: bool = False, reads: int = 0) -> Any:
    """Send octets, read some, and be gone."""

    def act(rig: Rig) -> None:
        with RawClient(rig.port) as client:
            client.send(data)
            if reads:
                assert client.socket.recv(reads)
            time.sleep(after)
            if reset:
                client.resets()

    return act


def tunnelled(rig: Rig) -> None:
    with RawClient(rig.port) as client:
        client.send(head("/web/ws", "GET", UPGRADE))
        assert client.answer().status == 101
        client.send(b"ping")
        assert client.socket.recv(4) == b"ping"
        assert rig.lines()[rig.read :] == [], "its line comes at its end"


def slowly_refused(rig: Rig) -> None:
    with RawClient(rig.port) as client:
        client.send(b"GET /web/ok HTTP/1.1\r\nHo")
        assert client.answer().status == 408


def content_late(rig: Rig) -> None:
    with RawClient(rig.port) as client:
        client.send(head("/web/ok", "POST", "Content-Length: 5\r\n") + b"12")
        assert client.answer().status == 408


def nobody(rig: Rig) -> None:
    """Ask where nobody listens: 502, and 503 from when the breaker opens."""
    told = rig.told["nobody there"] = []
    for _ in range(8):
        with RawClient(rig.port) as client:
            told.append(client.get("/dead/ok").status)
    assert {502, 503} >= set(told)


def shed(rig: Rig) -> None:
    with RawClient(rig.port) as first:
        first.send(head("/small/hang"))
        time.sleep(0.3)
        said(head("/small/ok"), 503)(rig)
        first.resets()


def over_tls(rig: Rig) -> None:
    raw = socket.create_connection(("127.0.0.1", rig.tls), 10)
    with AUTHORITY.client().wrap_socket(raw, server_hostname="site.example") as client:
        client.sendall(head("/web/ok"))
        assert client.recv(1000).startswith(b"HTTP/1.1 200")


def shaken_badly(rig: Rig) -> None:
    with pytest.raises(ssl.SSLError), socket.create_connection(("127.0.0.1", rig.tls), 10) as raw:
        ssl.create_default_context().wrap_socket(raw, server_hostname="site.example")
    with RawClient(rig.tls) as client:
        client.send(b"\x16\x03\x01\x00\x05hello")
        client.closed()


def silent(rig: Rig) -> None:
    for port in (rig.port, rig.tls):
        with RawClient(port):
            time.sleep(0.1)
    with RawClient(rig.port) as client:
        client.send(b"\r\n\r\n")
        time.sleep(0.1)


def reported(rig: Rig) -> None:
    report = json.dumps({"csp-report": {"document-uri": "http://x.example/web/"}}).encode()
    fields = f"Content-Type: application/csp-report\r\nContent-Length: {len(report)}\r\n"
    said(head("/.well-known/gateway/csp-reports", "POST", fields) + report, 204)(rig)


def post(fields: str, content: bytes = b"", target: str = "/web/ok") -> bytes:
    return head(target, "POST", fields) + content


GET = head("/web/ok")
LENGTH = "Content-Length: "
CHUNKED = "Transfer-Encoding: chunked\r\n"
PREFLIGHT = "Origin: https://o.example\r\nAccess-Control-Request-Method: PUT\r\n"
EXPECTS = f"{LENGTH}2\r\nExpect: 100-continue\r\n"
MIB = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
EARLY = post(f"{LENGTH}200000\r\n", b"x" * 50_000, "/web/early")
UPLOADS = post(f"{LENGTH}5\r\n", b"1")
BAD_LAST = GET * 2 + b"G?T\r\n\r\n"
CASES = (
    ask("/web/ok", 200),
    ask("/web/ok", 200, "HEAD"),
    ask("/web/ok", 200, "PATCH", f"{LENGTH}0\r\n"),
    ask("/web/ok", 200, "BREW"),
    *(ask(f"/web/{status}", status) for status in (204, 304, 301, 404, 500)),
    ask("/nowhere", 404),
    ask("/web/%2e%2e/", 400),
    ask("/web/reset", 502),
    ask("/web/hang", 504),
    Case("nobody there", (502,) * 8, nobody),
    ask("/twice/ok", 200, times=6),  # some of them by a retry
    ask("/rescued/ok", 200, times=3),
    ask("/page/ok", 200, times=2),
    ask("/kept/cached", 200, times=2),
    ask("/kept/stale", 200, times=2),
    ask("/closed/ok", 503),
    Case("limited", (200, 429), said(head("/limited/ok") * 2, 200, 429)),
    Case("shed", (503, 499), shed),
    ask("/keys/ok", 401),
    ask("/inner/ok", 403),
    ask("/.well-known/gateway/ready", 200),
    ask("/.well-known/gateway/status", 200),
    ask("/.well-known/acme-challenge/token", 200),
    ask("/.well-known/acme-challenge/other", 404),
    Case("a report", (204,), reported),
    ask("/web/ok", 204, "OPTIONS", PREFLIGHT),
    Case("kept", (200, 404), said(GET + head("/nowhere"), 200, 404)),
    Case("pipelined, a bad one last", (200, 200, 400), said(BAD_LAST, 200, 200, 400)),
    Case("HTTP/1.0", (200,), said(b"GET /web/ok HTTP/1.0\r\nHost: x\r\n\r\n", 200)),
    Case("expects 100", (200,), said(post(EXPECTS, b"ab"), 200)),
    Case("refused early", (413,), said(EARLY, 413)),
    Case("too much", (413,), said(post(f"{LENGTH}9999999\r\n"), 413)),
    Case("too much in chunks", (413,), said(post(CHUNKED, MIB), 413)),
    Case("a bad chunk", (400,), said(post(CHUNKED, b"zz\r\n"), 400)),
    Case("two lengths", (400,), said(head("/", "GET", f"{LENGTH}1\r\n{LENGTH}2\r\n"), 400)),
    Case("a bare LF", (400,), said(b"GET / HTTP/1.1\nHost: x\n\n", 400)),
    Case("no Host", (400,), said(b"GET / HTTP/1.1\r\n\r\n", 400)),
    Case("HTTP/2's preface", (505,), said(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505)),
    Case("a long head", (431,), said(head("/", "GET", "X: " + "y" * 40_000 + "\r\n"), 431)),
    Case("a long target", (414,), said(b"GET /" + b"y" * 40_000, 414)),
    Case("a slow head", (408,), slowly_refused),
    Case("slow content", (408,), content_late),
    Case("half a head, closed", (499,), gone(b"GET /web/ok HTTP/1.1\r\nHost")),
    Case("half a head, reset", (499,), gone(b"GET /web/ok HTTP/1.1\r\nHost", reset=True)),
    Case("left waiting", (499,), gone(head("/web/hang"), reset=True)),
    Case("left uploading", (499,), gone(UPLOADS)),
    Case("left uploading, reset", (499,), gone(UPLOADS, reset=True)),
    Case("left reading", (200,), gone(head("/web/large"), reads=1000)),
    Case("left reading, reset", (200,), gone(head("/web/large"), reads=1000, reset=True)),
    Case("cut by the backend", (200,), gone(head("/web/cut"), after=0.6)),
    Case("events, left", (200,), gone(head("/web/events"), reads=1000)),
    Case("events, cut", (200,), gone(head("/web/cut-events"), after=0.6)),
    Case("a tunnel", (101,), tunnelled),
    Case("no tunnel", (404,), said(head("/web/404", "GET", UPGRADE), 404)),
    Case("redirected", (308,), said(GET, 308, to="redirect")),
    Case("over TLS", (200,), over_tls),
    Case("plain HTTP on the port of TLS", (400,), said(GET, 400, to="tls")),
    Case("no handshake", (), shaken_badly),
    Case("nothing said", (), silent),
)


def config(folder: Path, up: Upstream, bad: Upstream, ports: list[int]) -> str:
    port, admin, tls, redirect, nobody = ports
    (folder / "page.html").write_text("a page")
    (folder / "acme").mkdir()
    (folder / "acme" / "token").write_text("answer")
    (folder / "keys").write_text("")
    AUTHORITY.make("site.example", days=5).write(folder / "live")
    pair = f"{{certificate: {folder}/live/site.pem, key: {folder}/live/site.key}}"
    names = ("web", "limited", "keys", "inner", "closed")
    plain = "".join(f'  {name}: {{blue: {{endpoints: ["{up.url}"]}}, retries: 0, '
                    "timeouts: {first_byte: 1s, between_bytes: 1s}, breaker: off}\n"
                    for name in names)  # fmt: skip
    return f"""version: 1
listen:
  - {{address: "127.0.0.1:{port}"}}
  - {{address: "127.0.0.1:{tls}", tls: {{certificates: [{pair}]}}}}
  - {{address: "127.0.0.1:{redirect}", redirect_to_https: {{port: {tls}}}}}
workers: 2
state: {{path: {folder}/gateway.db}}
access_log: {folder}/access.log
acme: {{folder: {folder}/acme}}
limits: {{header_timeout: 1s, body: 512KiB}}
admin:
  address: 127.0.0.1:{admin}
  tokens: [{{name: test, role: admin, token_env: GATEWAY_TEST_TOKEN}}]
auth: {{partners: {{api_keys: {{keys_file: {folder}/keys}}}}}}
security:
  csp_reports: {{}}
  profiles: {{page: {{}}}}
  cors: {{profiles: {{open: {{origins: ["https://o.example"], methods: [GET, PUT]}}}}}}
services:
{plain}  dead: {{blue: {{endpoints: ["http://127.0.0.1:{nobody}"]}}}}
  twice: {{blue: {{endpoints: ["{bad.url}", "{up.url}"]}}}}
  rescued: {{blue: {{endpoints: ["{up.url}"]}}, green: {{endpoints: ["{bad.url}"]}}}}
  page:
    blue: {{endpoints: ["http://127.0.0.1:{nobody}"]}}
    fallback: [{{static: {{file: {folder}/page.html}}}}]
  kept:
    blue: {{endpoints: ["{up.url}"]}}
    fallback: [{{stale: {{max_age: 1h, paths: ["/kept/*"]}}}}]
  small:
    blue: {{endpoints: ["{up.url}"]}}
    max_in_flight: 1
    queue: {{length: 0}}
routes:
  - {{path: /web/, service: web, security: page, cors: open}}
  - {{path: /limited/, service: limited, rate_limit: {{rate: 1/min}}}}
  - {{path: /keys/, service: keys, auth: partners}}
  - {{path: /inner/, service: inner, allow: [192.0.2.0/24]}}
  - {{path: /kept/, service: kept, cache: on}}
""" + "".join(
        f"  - {{path: /{name}/, service: {name}}}\n"
        for name in ("closed", "dead", "twice", "rescued", "page", "small")
    )


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("counts")
    ports = free_ports(5)
    with Upstream(backend) as up, Upstream(broken) as bad:
        text = config(folder, up, bad, ports)
        gateway = GatewayProcess(text, folder, port=ports[0], admin=ports[1])
        with gateway:
            body = {"candidate": 100, "services": ["rescued"], "force": True}
            assert gateway.api("PUT", "/v1/traffic", body).status == 200
            maintenance = "/v1/services/closed/maintenance"
            assert gateway.api("POST", maintenance, {}).status == 200
            rig = Rig(gateway, ports[2], ports[3], folder / "access.log")
            for case in CASES:
                rig.play(case)
            yield rig


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_request_has_one_line_with_its_status(case: Case, played: Rig) -> None:
    assert sorted(played.seen[case.name]) == sorted(played.told.get(case.name, case.lines))


def test_what_is_counted_is_what_has_a_line(played: Rig) -> None:
    lines = Counter(class_of(status) for status in played.lines())
    assert lines.total() == sum(len(case.lines) for case in CASES)

    def scraped() -> Scrape | None:
        scrape = Scrape.of(played.gateway.api("GET", "/metrics").body)
        return scrape if scrape.requests.total() >= lines.total() else None

    scrape = wait_until(scraped, "the metrics of now", timeout=2.5)
    assert scrape.requests == lines
    assert scrape.timed == lines.total() - lines["1xx"]
    assert (scrape.lines_lost, scrape.in_flight, scrape.tunnels) == (0, 0, 0)
