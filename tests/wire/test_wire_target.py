"""Targets and hosts: what is read, and what is refused because two readers could differ."""

from __future__ import annotations

import ipaddress
import posixpath
import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.wire.errors import WireError
from gateway.wire.target import (
    TargetError,
    lenient_path,
    match_path,
    prefix_path,
    split_absolute,
    valid_host,
)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/", b"/"),
        (b"/api/ivor/", b"/api/ivor/"),
        (b"/api/ivor?q=1/../2#", b"/api/ivor"),
        (b"/?", b"/"),
        (b"/%61pi/", b"/api/"),
        (b"/%7Euser/%2D%5f%2e%2dx", b"/~user/-_.-x"),
        (b"/caf%c3%a9", b"/caf%C3%A9"),
        (b"/a%2fb", b"/a%2Fb"),
        (b"/100%25", b"/100%25"),
        (b"/%2561", b"/%2561"),
        (b"/a%20b?%zz", b"/a%20b"),
        (b"/.well-known/x", b"/.well-known/x"),
        (b"/...", b"/..."),
        (b"/a..b/.c./..d/e..", b"/a..b/.c./..d/e.."),
        (b"//a//", b"//a//"),
        (b"/a;v=1/b", b"/a;v=1/b"),
        (b'/"<>^`{|}[]', b'/"<>^`{|}[]'),
    ],
)
def test_the_strict_reading(target: bytes, path: bytes) -> None:
    assert match_path(target) == path


def test_a_path_with_nothing_to_decode_is_not_copied() -> None:
    target = b"/api/ivor/resources"
    assert match_path(target) is target
    assert lenient_path(target) is target


@pytest.mark.parametrize(
    "target",
    [
        b"/..",
        b"/.",
        b"/./a",
        b"/a/../b",
        b"/a/..",
        b"/a/.?x",
        b"/%2e",
        b"/a/%2E%2e/b",
        b"/a/.%2E",
        b"/a/%2e./b",
        b"/a/..%2fb",
        b"/a%2f..%2Fb",
        b"/a/..%5cb",
        b"/a%5C..",
        b"/..;x/b",
        b"/a/..;/b",
        b"/a/.;x=1",
        b"/a/..%3bx",
        b"/a/%2e%2e;x",
        b"/a/..%3Fx",
        b"/a/..%23",
        b"//..//",
    ],
)
def test_dot_segments_in_any_reading_are_refused(target: bytes) -> None:
    with pytest.raises(TargetError) as caught:
        match_path(target)
    assert caught.value.kind == "dot-segment"


@pytest.mark.parametrize(
    "target", [b"/%", b"/%1", b"/a%?41", b"/%4", b"/%zz", b"/%4g", b"/%-1", b"/%%41", b"/% 41"[:2]]
)
def test_malformed_escapes_are_refused(target: bytes) -> None:
    with pytest.raises(TargetError) as caught:
        match_path(target)
    assert caught.value.kind == "bad-escape"


@pytest.mark.parametrize("octet", [*range(0x20), 0x7F])
def test_escaped_control_octets_are_refused(octet: int) -> None:
    with pytest.raises(TargetError) as caught:
        match_path(b"/a%%%02xb" % octet)
    assert caught.value.kind == "bad-escape"


@pytest.mark.parametrize("octet", [*range(0x21), *b"\\#", *range(0x7F, 0x100)])
def test_raw_octets_that_no_path_has_are_refused(octet: int) -> None:
    with pytest.raises(TargetError) as caught:
        match_path(b"/a%cb" % octet)
    assert caught.value.kind == "bad-target"


@pytest.mark.parametrize("escape", [b"%c0%ae", b"%C1%81", b"%c0%AF", b"%e0%80%ae", b"%F0%80%80%ae"])
def test_overlong_utf8_is_refused(escape: bytes) -> None:
    with pytest.raises(TargetError) as caught:
        match_path(b"/a/" + escape)
    assert caught.value.kind == "bad-escape"


@pytest.mark.parametrize("path", ["/é", "/日本", "/😀", "/À"])
def test_whole_utf8_passes(path: str) -> None:
    encoded = "".join(c if c == "/" else "".join(f"%{o:02x}" for o in c.encode()) for c in path)
    assert match_path(encoded.encode()) == encoded.upper().encode()


def test_latin_1_escapes_pass() -> None:
    assert match_path(b"/%c0-propos/%E9t%e9") == b"/%C0-propos/%E9t%E9"


@pytest.mark.parametrize("target", [b"", b"*", b"a", b"http://x/", b"?", b"%2f"])
def test_what_is_no_origin_form_is_refused(target: bytes) -> None:
    with pytest.raises(TargetError) as caught:
        match_path(target)
    assert caught.value.kind == "bad-target"
    assert caught.value.status == 400
    assert isinstance(caught.value, WireError)


@pytest.mark.parametrize(
    ("path", "reading"),
    [
        (b"/a%2Fb", b"/a/b"),
        (b"/a%5Cb", b"/a/b"),
        (b"//a///b/", b"/a/b/"),
        (b"/a%2F/b", b"/a/b"),
        (b"/a;x=1/b;y", b"/a/b"),
        (b"/a%3Bx/b", b"/a/b"),
        (b"/;x/b", b"/b"),
        (b"/a%3Fb/c", b"/a"),
        (b"/a%23b", b"/a"),
        (b"/a%20b", b"/a%20b"),
        (b"/a%252Fb", b"/a%252Fb"),
    ],
)
def test_the_lenient_reading(path: bytes, reading: bytes) -> None:
    assert lenient_path(path) == reading


_PIECES = st.sampled_from(
    [b"/", b".", b"..", b"a", b"b", b";", b"%2e", b"%2F", b"%5c", b"%3B", b"%61", b"%3f", b"%20"]
)


@given(st.lists(_PIECES, max_size=12).map(b"".join))
@example(b"..;a/b")
def test_no_reader_climbs_out_of_what_is_accepted(rest: bytes) -> None:
    try:
        path = match_path(b"/" + rest)
    except TargetError:
        return
    # Readers of growing carelessness: all of it decoded, backslashes and parameters read too.
    for reading in (path, unquote_to_bytes(path), lenient_path(path)):
        bare = b"/".join(s.partition(b";")[0] for s in re.split(rb"[/\\]", reading))
        assert not {b".", b".."} & set(bare.split(b"/"))
        assert posixpath.normpath(bare).lstrip(b"/") == re.sub(rb"//+", b"/", bare).strip(b"/") or (
            bare.strip(b"/") == b""
        )


@given(st.binary(max_size=40))
def test_any_octets_are_a_path_or_that_one_error(octets: bytes) -> None:
    try:
        path = match_path(b"/" + octets)
    except TargetError:
        return
    assert path.startswith(b"/")
    assert match_path(path) == path  # the strict reading is its own
    assert unquote_to_bytes(path) == unquote_to_bytes(b"/" + octets.partition(b"?")[0])
    assert lenient_path(path).startswith(b"/")


@given(st.binary(max_size=40))
def test_lenient_readings_of_any_octets_end(octets: bytes) -> None:
    assert len(lenient_path(b"/" + octets)) <= len(octets) + 1


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (b"/a?b", "bad-target"),
        (b"a", "bad-target"),
        (b"/a//b", "ambiguous-path"),
        (b"/a;b", "ambiguous-path"),
        (b"/a%2fb", "ambiguous-path"),
        (b"/../a", "dot-segment"),
        (b"/%00", "bad-escape"),
    ],
)
def test_a_prefix_that_no_request_can_match_is_refused(path: bytes, kind: str) -> None:
    with pytest.raises(TargetError) as caught:
        prefix_path(path)
    assert caught.value.kind == kind


def test_a_prefix_is_brought_into_the_form_of_requests() -> None:
    assert prefix_path(b"/%61pi/caf%c3%a9/") == b"/api/caf%C3%A9/"


# --- absolute-form and hosts --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        (b"http://a.example/x?y", (b"http", b"a.example", b"/x?y")),
        (b"HTTPS://A:1/", (b"https", b"A:1", b"/")),
        (b"http://a", (b"http", b"a", b"/")),
        (b"http://a?q=/x", (b"http", b"a", b"/?q=/x")),
        (b"http:///x", (b"http", b"", b"/x")),
        (b"http://u@a/x://y", (b"http", b"u@a", b"/x://y")),
    ],
)
def test_absolute_form(target: bytes, parts: tuple[bytes, bytes, bytes]) -> None:
    assert split_absolute(target) == parts


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (b"ftp://a/", "bad-scheme"),
        (b"://a/", "bad-scheme"),
        (b"/redirect?to=http://a/", "bad-scheme"),
        (b"a.example:443", "bad-target"),
        (b"*", "bad-target"),
        (b"http:/a", "bad-target"),
    ],
)
def test_other_forms_are_refused(target: bytes, kind: str) -> None:
    with pytest.raises(TargetError) as caught:
        split_absolute(target)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("value", "host"),
    [
        (b"blkout.example", (b"blkout.example", 0)),
        (b"Blkout.EXAMPLE:8443", (b"blkout.example", 8443)),
        (b"a", (b"a", 0)),
        (b"a:", (b"a", 0)),
        (b"a.example.", (b"a.example", 0)),
        (b"A.example.:80", (b"a.example", 80)),
        (b"a_b-c.1", (b"a_b-c.1", 0)),
        (b"127.0.0.1:65535", (b"127.0.0.1", 65535)),
        (b"[::1]", (b"[::1]", 0)),
        (b"[2001:DB8:0:0:0:0:0:1]:080", (b"[2001:db8::1]", 80)),
        (b"[::ffff:1.2.3.4]:", (b"[::ffff:102:304]", 0)),
        (b"a" * 255, (b"a" * 255, 0)),
        (b"a" * 255 + b":12345", (b"a" * 255, 12345)),
    ],
)
def test_hosts(value: bytes, host: tuple[bytes, int]) -> None:
    found = valid_host(value)
    if value.startswith(b"[::ffff"):  # its shortest form differs from one Python to another
        found_address = ipaddress.IPv6Address(found[0].strip(b"[]").decode())
        assert found_address == ipaddress.IPv6Address("::ffff:1.2.3.4")
    else:
        assert found == host


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b".",
        b":80",
        b".a",
        b"a..b",
        b"a..",
        b"a b",
        b" a",
        b"a ",
        b"a\t",
        b"u@a",
        b"a/b",
        b"a?b",
        b"a#b",
        b"a,b",
        b"a%41",
        b"a\x00",
        b"\xc3\xa9.example",
        b"a:0",
        b"a:65536",
        b"a:99999",
        b"a:000080",
        b"a:18446744073709551696",
        b"a:+80",
        b"a:8 0",
        b"a:80:80",
        b"::1",
        b"[::1",
        b"[::1]80",
        b"[::1]:x",
        b"[::1]:0",
        b"[]",
        b"[1.2.3.4]",
        b"[fe80::1%25eth0]",
        b"[fe80::1%eth0]",
        b"[v1.x]",
        b"[::\xb2]",
        b"a" * 256,
        b"a" * 300,
    ],
)
def test_what_is_no_host_is_refused(value: bytes) -> None:
    with pytest.raises(TargetError) as caught:
        valid_host(value)
    assert caught.value.kind == "bad-host"


@given(st.binary(max_size=30) | st.text("aA.:[]1-%@", max_size=12).map(str.encode))
def test_any_octets_are_a_host_or_that_one_error(value: bytes) -> None:
    try:
        host, port = valid_host(value)
    except TargetError:
        return
    assert re.fullmatch(rb"[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]", host)
    assert 0 <= port <= 65535
    assert valid_host(host) == (host, 0)
    assert value.lower().startswith(host) or host.startswith(b"[")
