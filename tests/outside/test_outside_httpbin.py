"""An application, clients and servers that are not ours: httpbin, driven by httpx and curl."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.gateway import GatewayProcess
from tests.support.processes import need

pytestmark = pytest.mark.outside


@pytest.fixture
def client(httpbin: GatewayProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=httpbin.url, timeout=20, trust_env=False) as client:
        yield client


def curl(*arguments: str) -> bytes:
    command = [need("curl"), "--silent", "--show-error", "--max-time", "20", "--noproxy", "*"]
    done = subprocess.run([*command, *arguments], capture_output=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.mark.parametrize("code", [200, 201, 204, 304, 400, 404, 418, 429, 500, 503])
def test_status_codes_come_through(client: httpx.Client, code: int) -> None:
    assert client.get(f"/status/{code}").status_code == code


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_methods_bodies_and_queries_come_through(client: httpx.Client, method: str) -> None:
    body = None if method == "GET" else b"\x00binary\xff" * 100
    answer = client.request(method, "/anything/a%2Fb?x=1&x=2&y=%20", content=body)
    seen = answer.json()
    assert seen["method"] == method
    assert seen["args"] == {"x": ["1", "2"], "y": " "}
    assert answer.headers["x-served-by"] == "blue"
    if body is not None:
        assert int(seen["headers"]["Content-Length"]) == len(body)


def test_head_has_the_fields_and_no_body(client: httpx.Client) -> None:
    answer = client.head("/bytes/1000?seed=1")
    assert answer.status_code == 200
    assert answer.headers["content-length"] == "1000"
    assert answer.content == b""
    assert client.get("/status/200").status_code == 200


def test_redirects_are_the_clients_to_follow(client: httpx.Client) -> None:
    first = client.get("/redirect/2", follow_redirects=False)
    assert first.status_code == 302
    last = client.get("/redirect/2", follow_redirects=True)
    assert last.status_code == 200
    assert len(last.history) == 2


def test_cookies_go_both_ways(client: httpx.Client) -> None:
    client.get("/cookies/set?theme=dark", follow_redirects=False)
    assert client.get("/cookies").json()["cookies"]["theme"] == "dark"


def test_ranges(client: httpx.Client) -> None:
    answer = client.get("/range/1000", headers={"Range": "bytes=10-19"})
    assert answer.status_code == 206
    assert answer.headers["content-range"] == "bytes 10-19/1000"
    assert answer.content == b"klmnopqrst"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "brotli"])
def test_codings_are_left_alone(client: httpx.Client, coding: str) -> None:
    with client.stream("GET", f"/{coding}") as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.status_code == 200
    assert answer.headers["content-encoding"] in {coding, "br"}
    assert not raw.startswith(b"{")


def test_streams_arrive_line_by_line(client: httpx.Client) -> None:
    with client.stream("GET", "/stream/20") as answer:
        lines = [json.loads(line) for line in answer.iter_lines()]
    assert [line["id"] for line in lines] == list(range(20))


def test_a_dripping_body_is_not_held_back(client: httpx.Client) -> None:
    with client.stream("GET", "/drip?numbytes=5&duration=2&delay=0&code=200") as answer:
        pieces = list(answer.iter_raw())
    assert b"".join(pieces) == b"*" * 5
    assert len(pieces) > 1, "five octets over two seconds came in one piece"


def test_large_bodies_survive_both_ways(client: httpx.Client) -> None:
    body = bytes(range(256)) * 4096 * 2  # 2 MiB
    seen = client.post("/post", content=body).json()
    assert int(seen["headers"]["Content-Length"]) == len(body)
    a = client.get("/stream-bytes/1000000?seed=7&chunk_size=9999").content
    b = client.get("/stream-bytes/1000000?seed=7&chunk_size=9999").content
    assert len(a) == 100 * 1024  # httpbin's own limit
    assert hashlib.sha256(a).digest() == hashlib.sha256(b).digest()


def test_chunked_uploads(client: httpx.Client) -> None:
    def pieces() -> Iterator[bytes]:
        for number in range(10):
            yield str(number).encode() * 1000

    answer = client.post("/anything", content=pieces())
    assert answer.status_code == 200
    assert answer.json()["data"] == "".join(str(number) * 1000 for number in range(10))


def test_the_application_learns_of_its_client_and_its_role(client: httpx.Client) -> None:
    forged = {"X-Forwarded-For": "203.0.113.9", "X-Release-Role": "candidate"}
    fields = client.get("/headers?show_env=1", headers=forged).json()["headers"]
    assert fields["X-Forwarded-For"] == "127.0.0.1"
    assert fields["X-Forwarded-Proto"] == "http"
    assert fields["X-Release-Color"] == "blue"
    assert fields["X-Release-Role"] == "stable"
    assert fields["X-Request-Id"]
    assert fields["Traceparent"].startswith("00-")


def test_curl_is_answered_too(httpbin: GatewayProcess, tmp_path: Path) -> None:
    assert json.loads(curl(f"{httpbin.url}/get?a=b"))["args"] == {"a": "b"}
    upload = tmp_path / "upload.bin"
    upload.write_bytes(b"x" * 3_000_000)
    # More than a mebibyte: curl asks first (Expect: 100-continue).
    said = curl("-H", "Expect: 100-continue", "--data-binary", f"@{upload}", f"{httpbin.url}/post")
    assert json.loads(said)["headers"]["Content-Length"] == "3000000"
    assert curl("--http1.0", f"{httpbin.url}/status/200") == b""
    head = curl("--head", f"{httpbin.url}/get").decode().lower()
    assert head.startswith("http/1.1 200")


def test_curl_reuses_one_connection(httpbin: GatewayProcess) -> None:
    urls = [f"{httpbin.url}/anything/{number}" for number in range(5)]
    options = [option for url in urls for option in ("-o", "/dev/null", url)]
    said = curl("-w", "%{num_connects}\n", *options)
    assert said.split() == [b"1", b"0", b"0", b"0", b"0"]


def test_a_split_moves_clients_and_back(httpbin: GatewayProcess) -> None:
    httpbin.set_weight(100)
    try:
        answer = httpx.get(f"{httpbin.url}/get", trust_env=False)
        assert answer.headers["x-served-by"] == "green"
        assert answer.json()["headers"]["X-Release-Role"] == "candidate"
    finally:
        assert httpbin.api("POST", "/v1/rollback", {"reason": "test"}).status == 200
    assert httpx.get(f"{httpbin.url}/get", trust_env=False).headers["x-served-by"] == "blue"
