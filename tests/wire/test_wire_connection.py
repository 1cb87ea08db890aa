"""What a head says about its connection: persistence, upgrades, expectations."""

from __future__ import annotations

import pytest

from gateway.wire.head import Head, parse_request, parse_response


def _request(*lines: bytes, minor: int = 1) -> Head:
    head = parse_request(
        b"\r\n".join((b"POST / HTTP/1.%d" % minor, b"Host: a", *lines, b"", b"")),
    )
    assert head is not None
    return head


PERSISTENCE = [
    # Connection fields; whether HTTP/1.1 stays; whether HTTP/1.0 does (RFC 9112 section 9.3).
    ([], True, False),
    ([b"close"], False, False),
    ([b"Close"], False, False),
    ([b"\tCLOSE "], False, False),
    ([b"keep-alive"], True, True),
    ([b"Keep-Alive"], True, True),
    ([b"KEEP-ALIVE\t"], True, True),
    ([b"close, keep-alive"], False, False),
    ([b"keep-alive, close"], False, False),
    ([b"keep-alive,close"], False, False),
    ([b"keep-alive", b"close"], False, False),
    ([b"close", b"keep-alive"], False, False),
    ([b"a", b"b, keep-alive", b"c"], True, True),
    ([b"a", b"b, close", b"c"], False, False),
    ([b""], True, False),
    ([b","], True, False),
    ([b",, ,close, ,"], False, False),
    ([b",\t, keep-alive ,"], True, True),
    # Members are whole tokens: these close nothing and keep nothing.
    ([b"closed"], True, False),
    ([b"x-close"], True, False),
    ([b"clos"], True, False),
    ([b'"close"'], True, False),
    ([b"close;a"], True, False),
    ([b"close keep-alive"], True, False),
    ([b"keep-alive, closed"], True, True),
    ([b"keep-alive, x-close"], True, True),
    ([b"x-keep-alive"], True, False),
    ([b"keep_alive"], True, False),
    ([b"keep-alive", b"closed", b"not-close"], True, True),
    ([b"upgrade"], True, False),
    ([b"keep-alive, Upgrade"], True, True),
]


@pytest.mark.parametrize(("values", "newer", "older"), PERSISTENCE)
def test_close_wins_and_keep_alive_counts_in_1_0(
    values: list[bytes], newer: bool, older: bool
) -> None:
    lines = [b"Connection: " + value for value in values]
    assert bool(_request(*lines).persistent) is newer
    assert bool(_request(*lines, minor=0).persistent) is older
    for minor, wanted in ((1, newer), (0, older)):
        answer = parse_response(
            b"\r\n".join((b"HTTP/1.%d 200 OK" % minor, *lines, b"Content-Length: 0", b"", b""))
        )
        assert answer is not None
        assert bool(answer.persistent) is wanted


UPGRADES = [
    ((b"Connection: Upgrade", b"Upgrade: websocket"), True),
    ((b"connection: keep-alive, UPGRADE", b"upgrade: h2c"), True),
    ((b"Upgrade: websocket", b"Connection: a", b"Connection: upgrade"), True),
    ((b"Connection: upgrade, upgrade", b"Upgrade: websocket"), True),
    ((b"Connection: Upgrade",), False),
    ((b"Upgrade: websocket",), False),
    ((b"Connection: keep-alive", b"Upgrade: websocket"), False),
    ((b"Connection: upgraded", b"Upgrade: websocket"), False),
    ((b"Connection: Upgrade", b"X-Upgrade: websocket"), False),
]


@pytest.mark.parametrize(("lines", "upgrade"), UPGRADES)
def test_an_upgrade_is_named_by_connection_and_said_by_upgrade(
    lines: tuple[bytes, ...], upgrade: bool
) -> None:
    assert bool(_request(*lines).upgrade) is upgrade
    answer = parse_response(b"\r\n".join((b"HTTP/1.1 101 Switching", *lines, b"", b"")))
    assert answer is not None
    assert bool(answer.upgrade) is upgrade


def test_an_upgrade_means_nothing_in_1_0() -> None:
    """RFC 9110 section 7.8."""
    assert not _request(b"Connection: Upgrade", b"Upgrade: websocket", minor=0).upgrade


EXPECTATIONS = [
    # Lines; minor version; whether 100 is waited for (RFC 9110 section 10.1.1).
    ((b"Expect: 100-continue", b"Content-Length: 5"), 1, True),
    ((b"expect:100-Continue\t", b"Content-Length: 5"), 1, True),
    ((b"Expect: 100-continue", b"Transfer-Encoding: chunked"), 1, True),
    ((b"Expect: 100-continue",), 1, False),
    ((b"Expect: 100-continue", b"Content-Length: 0"), 1, False),
    ((b"Expect: 100-continue", b"Content-Length: 5"), 0, False),
    ((b"Content-Length: 5",), 1, False),
    ((b"Expected: 100-continue", b"Content-Length: 5"), 1, False),
]


@pytest.mark.parametrize(("lines", "minor", "waits"), EXPECTATIONS)
def test_a_client_waits_for_100_where_it_has_something_to_send(
    lines: tuple[bytes, ...], minor: int, waits: bool
) -> None:
    assert bool(_request(*lines, minor=minor).expect_continue) is waits
