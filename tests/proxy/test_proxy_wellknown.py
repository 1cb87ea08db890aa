"""What is answered before any route: ACME challenges, the way to https."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.proxy.wellknown import challenge, https_location
from tests.support.rig import Rig, topology

CHALLENGE = "/.well-known/acme-challenge/"


@pytest.fixture
def acme(rig: Rig, tmp_path: Path) -> Path:
    folder = tmp_path / "acme"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "token-1_A").write_bytes(b"token-1_A.digest")
    rig.serve(replace(topology(), acme_folder=str(folder)))
    return folder


def test_a_challenge_is_answered_on_any_host(rig: Rig, acme: Path) -> None:
    rig.client.get(CHALLENGE + "token-1_A", host="nobody.example")
    answer = rig.client.answer()
    assert (answer.status, answer.body) == (200, b"token-1_A.digest")
    assert rig.dialling == 0
    rig.over([200])


@pytest.mark.parametrize(
    "token",
    [
        *("", "none", "token-1_A/", "token-1_A%00", "token-1_A%00.txt", "token-1_A.", "%2e", "."),
        *("..%2fsecret", "%2e%2e/secret", "%2e%2e%2fsecret", "%252e%252e%252fsecret", "..;/secret"),
        *("..%5csecret", "..\\secret", "%c0%ae%c0%ae%c0%afsecret", "..%c0%afsecret"),
        *("%2fetc%2fpasswd", "/etc/passwd", "//etc/passwd", "file:%2f%2f%2fetc%2fpasswd"),
        *("x" * 129, "x" * 5000, "link", "loop", "fifo", "zero", "folder", "folder%2fin", "dir"),
    ],
)
def test_anything_else_there_is_not_found(rig: Rig, acme: Path, token: str) -> None:
    """No spelling leads out of the folder, and nothing in it is waited for."""
    (acme / "link").symlink_to(acme.parent / "secret")
    (acme / "loop").symlink_to("loop")
    (acme / "zero").symlink_to("/dev/zero")
    (acme / "dir").symlink_to("/etc")
    (acme / "folder").mkdir()
    (acme / "folder" / "in").write_bytes(b"in")
    os.mkfifo(acme / "fifo")
    rig.client.get(CHALLENGE + token)
    answer = rig.client.answer()
    assert answer.status in {400, 404}
    assert b"secret" not in answer.body
    assert b"root:" not in answer.body
    assert rig.dialling == 0


def test_only_plain_files_of_the_folder_are_read(acme: Path) -> None:
    prefix = CHALLENGE.encode()
    (acme / "link").symlink_to(acme.parent / "secret")
    (acme / "folder").mkdir()
    os.mkfifo(acme / "fifo")
    (acme / "long").write_bytes(b"x" * 2000)
    for name in (b"link", b"folder", b"fifo", b"long", b".", b"..", b"../secret", b"a/b"):
        assert challenge(str(acme), prefix + name) is None, name
    assert challenge(str(acme), prefix + b"token-1_A") == b"token-1_A.digest"


def test_a_challenge_is_only_read(rig: Rig, acme: Path) -> None:
    rig.client.send(f"DELETE {CHALLENGE}token-1_A HTTP/1.1\r\nHost: a.example\r\n\r\n".encode())
    assert rig.client.answer().status == 405


def test_without_a_folder_the_path_is_a_route_s(rig: Rig) -> None:
    rig.core.redirects = {0: 443}
    rig.client.get(CHALLENGE + "token")
    rig.backend().ok()
    assert rig.client.answer().status == 200
    rig.over([200])


def test_plain_requests_are_sent_to_https(rig: Rig) -> None:
    rig.core.redirects = {0: 443}
    rig.client.get("/a%20b/?q=%2F&x", host="A.example:8080")
    answer = rig.client.answer()
    assert answer.status == 308
    assert answer.field(b"location") == b"https://a.example/a%20b/?q=%2F&x"
    assert answer.field(b"strict-transport-security") is None  # RFC 6797 section 7.2
    rig.over([308])


def test_the_public_port_and_the_method_stay(rig: Rig) -> None:
    rig.core.redirects = {0: 8443}
    rig.client.send(
        b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\n\r\nabc"
        b"GET /next HTTP/1.1\r\nHost: a.example\r\n\r\n"
    )
    first = rig.client.answer()
    assert (first.status, first.field(b"location")) == (308, b"https://a.example:8443/")


@pytest.mark.parametrize("fields", ["", "X-Forwarded-Proto: https\r\n"])
def test_nobody_but_a_trusted_proxy_is_believed_that_it_was_https(rig: Rig, fields: str) -> None:
    rig.core.redirects = {0: 443}
    rig.client.get("/", fields)
    assert rig.client.answer().status == 308


def test_what_a_trusted_proxy_took_in_over_https_is_served(rig: Rig) -> None:
    rig.core.redirects = {0: 443}
    rig.serve(replace(topology(), trusted_proxies=("192.0.2.0/24",)))
    rig.client.get("/", "X-Forwarded-Proto: https\r\n")
    rig.backend().ok()
    assert rig.client.answer().status == 200


def test_over_tls_and_at_other_listeners_nothing_is_redirected(rig: Rig) -> None:
    rig.core.redirects = {1: 443}
    rig.client.get()
    rig.backend().ok()
    assert rig.client.answer().status == 200
    rig.core.redirects = {0: 443}
    secure = rig.connect(tls=True).get()
    rig.backend().ok()
    assert secure.answer().status == 200


def test_the_public_status_page_is_not_redirected(rig: Rig) -> None:
    rig.core.redirects = {0: 443}
    rig.client.get("/.well-known/gateway/status")
    assert rig.client.answer().status == 200


def test_a_request_without_a_host_cannot_be_redirected(rig: Rig) -> None:
    rig.core.redirects = {0: 443}
    rig.client.send(b"GET / HTTP/1.0\r\n\r\n")
    assert rig.client.answer().status == 400


def test_a_location() -> None:
    assert https_location(b"[::1]", 444, b"/x") == b"Location: https://[::1]:444/x\r\n"
