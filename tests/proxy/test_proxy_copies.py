"""Assets of a version that is gone: copies made of stable's, given where neither color has one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config.snapshot import Cohort, ServiceTraffic
from gateway.proxy.kept import KeptAssets
from tests.proxy.test_proxy_auth import KEY, guarded
from tests.support.rig import Rig, endpoint, pool, topology, traffic

NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone"
SCRIPT = "Content-Type: text/javascript\r\n"


class Thread:
    """The copies' thread as the test sees it: what it calls back waits for ``turn``."""

    def __init__(self, rig: Rig, folder: Path) -> None:
        self.rig = rig
        self.calls: list[Callable[[], None]] = []
        self.kept = KeptAssets(folder, 3600.0, lambda: 0.0, self.calls.append)

    def turn(self) -> None:
        self.kept.close()
        for call in self.calls:
            call()
        self.rig.soon.run()


@pytest.fixture
def folder(tmp_path: Path, rig: Rig) -> Path:
    rig.serve(topology(number=2, assets=("/assets/*",)))
    return tmp_path


def make_copy(rig: Rig, folder: Path) -> None:
    """Have stable serve an asset once, in two pieces."""
    thread = Thread(rig, folder)
    rig.core.kept = thread.kept
    rig.client.get("/assets/a.js")
    backend = rig.backend()
    backend.answers(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/javascript\r\nContent-Length: 4\r\n\r\nol"
    )
    backend.answers(b"d!")
    assert rig.client.answer().body == b"old!"
    thread.turn()
    assert len(list(folder.iterdir())) == 1


def test_a_copy_is_given_where_neither_color_has_the_asset(rig: Rig, folder: Path) -> None:
    make_copy(rig, folder)
    thread = Thread(rig, folder)
    rig.core.kept = thread.kept
    rig.client.get("/assets/a.js")
    rig.backend().answers(NOT_FOUND)
    rig.backend().answers(NOT_FOUND)
    assert rig.client.received == b""
    thread.turn()
    answer = rig.client.answer()
    assert (answer.status, answer.body) == (200, b"old!")
    assert answer.field(b"x-gateway-served-by") == b"stale"
    assert answer.all(b"cache-control") == [b"no-store"]
    assert answer.field(b"content-type") == b"text/javascript"
    assert rig.log[-1]["served_by"] == "stale"
    assert rig.client.open
    rig.over([200, 200])


def test_a_copy_for_head_has_no_body(rig: Rig, folder: Path) -> None:
    make_copy(rig, folder)
    thread = Thread(rig, folder)
    rig.core.kept = thread.kept
    rig.client.send(b"HEAD /assets/a.js HTTP/1.1\r\nHost: a.example\r\n\r\n")
    rig.backend().answers(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\n")
    rig.backend().answers(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\n")
    thread.turn()
    answer = rig.client.answer(to_head=True)
    assert (answer.status, answer.field(b"content-length")) == (200, b"4")
    assert rig.client.received == b""
    rig.over([200, 200])


@pytest.mark.parametrize("damage", [b"", b"HTTP/1.1 200 OK\r\n", b"nonsense\r\n\r\n", None])
def test_a_copy_that_was_damaged_is_none(rig: Rig, folder: Path, damage: bytes | None) -> None:
    """It is not synced: a power cut may leave a part."""
    make_copy(rig, folder)
    (copy,) = folder.iterdir()
    copy.write_bytes(copy.read_bytes()[:-1] if damage is None else damage)
    os.utime(copy, (0, 0))
    thread = Thread(rig, folder)
    rig.core.kept = thread.kept
    rig.client.get("/assets/a.js")
    rig.backend().answers(NOT_FOUND)
    rig.backend().answers(NOT_FOUND)
    thread.turn()
    assert rig.client.answer().status == 404
    rig.over([200, 404])


@pytest.mark.parametrize(
    ("request_fields", "answer_fields", "kept"),
    [
        ("", "", True),
        ("", "Vary: Accept-Encoding\r\n", True),
        ("", "Vary: accept-encoding , Accept-Encoding\r\n", True),
        ("", "Vary: Cookie\r\n", False),
        ("", "Vary: Accept-Encoding\r\nVary: Cookie\r\n", False),
        ("", "Vary: *\r\n", False),
        ("", "Set-Cookie: a=b\r\n", False),
        ("", "Cache-Control: no-store\r\n", False),
        ("", "Cache-Control: max-age=1\r\nCache-Control: private\r\n", False),
        ("", "Content-Encoding: br\r\n", True),
        ("", "Content-Encoding: odd\r\n", False),
        ("Authorization: Basic eDp5\r\n", "", False),
    ],
)
def test_what_may_be_kept(
    rig: Rig, folder: Path, request_fields: str, answer_fields: str, kept: bool
) -> None:
    thread = Thread(rig, folder)
    rig.core.kept = thread.kept
    rig.client.get("/assets/a.js", request_fields)
    rig.backend().ok(b"x", SCRIPT + answer_fields)
    thread.turn()
    assert len(list(folder.iterdir())) == kept
    rig.over([200])


@pytest.mark.parametrize(
    ("auth", "more", "fields", "kept"),
    [
        (("partners",), {}, f"X-API-Key: {KEY}\r\n", 0),
        (("partners",), {"auth_optional": True}, f"X-API-Key: {KEY}\r\n", 0),
        (("partners",), {"auth_optional": True}, "", 1),
        ((), {"trusted_proxies": ("192.0.2.0/24",)}, "X-Identity: bob\r\n", 0),
        ((), {"internal_callers": ("192.0.2.0/24",)}, "X-Identity: bob\r\n", 0),
        ((), {"trusted_proxies": ("192.0.2.0/24",)}, "", 1),
        ((), {}, "X-Identity: bob\r\n", 1),  # nobody vouches for it
    ],
)
def test_what_somebody_was_given_is_kept_for_nobody(
    rig: Rig, tmp_path: Path, auth: tuple[str, ...], more: dict[str, Any], fields: str, kept: int
) -> None:
    guard = guarded(*auth, cohort=Cohort(header="X-Identity"), **more)
    rig.serve(msgspec.structs.replace(guard, number=2, assets=("/assets/*",)))
    thread = Thread(rig, tmp_path)
    rig.core.kept = thread.kept
    rig.client.get("/assets/a.js", fields)
    rig.backend().ok(b"x", SCRIPT)
    thread.turn()
    assert len(list(tmp_path.iterdir())) == kept
    rig.over([200])


@pytest.mark.parametrize("ending", ["cut", "left"])
def test_half_an_answer_is_not_kept(rig: Rig, folder: Path, ending: str) -> None:
    thread = Thread(rig, folder)
    rig.core.kept = thread.kept
    rig.client.get("/assets/a.js")
    rig.backend().answers(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nol")
    if ending == "cut":
        rig.backend().resets()
    else:
        rig.client.leaves()
    thread.turn()
    assert list(folder.iterdir()) == []
    rig.over([200])


def test_without_a_copy_the_first_answer_stands(rig: Rig, folder: Path) -> None:
    thread = Thread(rig, folder)
    rig.core.kept = thread.kept
    rig.client.get("/assets/a.js")
    rig.backend().answers(NOT_FOUND)
    rig.refuses()
    thread.turn()
    answer = rig.client.answer()
    assert (answer.status, answer.body) == (404, b"none")
    rig.over([404])


def test_one_color_alone_falls_back_on_copies_too(rig: Rig, folder: Path) -> None:
    make_copy(rig, folder)
    rig.serve(topology(number=3, assets=("/assets/*",), pools=(pool("web", "blue", endpoint(0)),)))
    thread = Thread(rig, folder)
    rig.core.kept = thread.kept
    rig.client.get("/assets/a.js")
    rig.backend().answers(NOT_FOUND)
    thread.turn()
    assert rig.client.answer().body == b"old!"


def test_a_candidates_assets_are_not_kept(rig: Rig, folder: Path) -> None:
    rig.serve(moved=traffic(ServiceTraffic(service="web", stable="blue", weight=10_000)))
    thread = Thread(rig, folder)
    rig.core.kept = thread.kept
    rig.client.get("/assets/a.js")
    rig.backend().ok(b"new", SCRIPT)
    assert rig.client.answer().body == b"new"
    thread.turn()
    assert list(folder.iterdir()) == []
    rig.over([200])


def test_a_client_that_left_meanwhile_gets_nothing(rig: Rig, folder: Path) -> None:
    make_copy(rig, folder)
    thread = Thread(rig, folder)
    rig.core.kept = thread.kept
    rig.client.get("/assets/a.js")
    rig.backend().answers(NOT_FOUND)
    rig.backend().answers(NOT_FOUND)
    rig.client.leaves()
    thread.turn()
    rig.over([200, 499])
