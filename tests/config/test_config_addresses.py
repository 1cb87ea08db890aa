"""Addresses, hosts and paths: canonical forms, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.addresses import (
    EndpointAddress,
    parse_admin_address,
    parse_endpoint,
    parse_host,
    parse_listen,
    parse_network,
    parse_path,
    parse_path_pattern,
    parse_route_host,
    parse_route_path,
)
from gateway.policy.route import Router
from gateway.wire.target import match_path, valid_host

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        (
            "http://127.0.0.1:3101",
            EndpointAddress("http://127.0.0.1:3101", "http", "127.0.0.1", 3101),
        ),
        (
            "HTTP://API.Internal/",
            EndpointAddress("http://api.internal", "http", "api.internal", 80),
        ),
        ("https://[::1]", EndpointAddress("https://[::1]", "https", "::1", 443)),
        (
            "https://[2001:DB8:0::1]:8443",
            EndpointAddress("https://[2001:db8::1]:8443", "https", "2001:db8::1", 8443),
        ),
        ("http://web_1:80", EndpointAddress("http://web_1", "http", "web_1", 80)),
        (
            "http://bücher.example",
            EndpointAddress("http://xn--bcher-kva.example", "http", "xn--bcher-kva.example", 80),
        ),
    ],
)
def test_an_endpoint_is_taken_apart(text: str, endpoint: EndpointAddress) -> None:
    assert parse_endpoint(text) == endpoint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("127.0.0.1:3101", "is not an endpoint"),
        ("ftp://x", "scheme 'ftp' is not spoken"),
        ("http://", "has no host"),
        ("http://:80", "has no host"),
        ("http://x/api", "no path or query of its own"),
        ("http://x?a", "no path or query of its own"),
        ("http://x#a", "no path or query of its own"),
        ("http://x:0", "port 0 does not exist"),
        ("http://x:65536", "port 65536 does not exist"),
        ("http://x:", "has no host"),
        ("http://::1", "has no host"),
        ("http://256.1.1.1", "is not a host name"),
        ("http://a..b", "is not a host name"),
        ("http://-a", "is not a host name"),
        ("http://a b", "is not a host name"),
    ],
)
def test_a_wrong_endpoint_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_endpoint(text)


@pytest.mark.parametrize("text", ["http://u:hunter2@x", "u:hunter2@x", "http://hunter2@x:1/"])
def test_credentials_in_an_endpoint_are_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(ValueError, match="credentials") as caught:
        parse_endpoint(text)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("BLKOUT.Example", "blkout.example"),
        ("*.Blkout.example", "*.blkout.example"),
        ("blkout.example.", "blkout.example"),
        ("192.0.2.1", "192.0.2.1"),
        ("[2001:DB8:0::1]", "[2001:db8::1]"),
        ("::1", "[::1]"),
        ("MÜNCHEN.example", "xn--mnchen-3ya.example"),
    ],
)
def test_a_host_has_one_form(text: str, host: str) -> None:
    assert parse_route_host(text) == host
    if "*" not in host:
        # As a request's Host is read, or the route would never be found.
        assert valid_host(host.encode()) == (host.encode(), 0)


@pytest.mark.parametrize(
    "text",
    [
        *("", "*", "a.*.b", "*a.b", "**.a", "*.192.0.2.1", "http://a", "a:80", "a/b", "a b", "a,b"),
        *("straße.example", "*.", ".", "a..b", "x" * 64, "1.2.3"),
    ],
)
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|not a host name"):
        parse_route_host(text)


@pytest.mark.parametrize(
    ("text", "written", "local"),
    [
        ("0.0.0.0:8080", "0.0.0.0:8080", False),
        ("127.0.0.1:1", "127.0.0.1:1", True),
        ("[::]:8080", "[::]:8080", False),
        ("[::1]:9090", "[::1]:9090", True),
        ("localhost:80", "localhost:80", True),
        ("unix:/run/gateway/admin.sock", "unix:/run/gateway/admin.sock", True),
    ],
)
def test_a_listening_address_knows_who_can_reach_it(text: str, written: str, local: bool) -> None:
    address = parse_admin_address(text)
    assert (str(address), address.local) == (written, local)


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("0.0.0.0:80", "127.0.0.1:80", True),
        ("[::]:80", "127.0.0.1:80", True),
        ("0.0.0.0:80", "127.0.0.1:81", False),
        ("10.0.0.1:80", "10.0.0.2:80", False),
        ("localhost:80", "[::1]:80", True),
        ("localhost:80", "10.0.0.1:80", False),
        ("unix:/a", "unix:/a", True),
        ("unix:/a", "unix:/b", False),
        ("unix:/a", "0.0.0.0:80", False),
    ],
)
def test_addresses_that_meet_are_known(one: str, other: str, overlap: bool) -> None:
    first, second = parse_admin_address(one), parse_admin_address(other)
    assert first.overlaps(second) is second.overlaps(first) is overlap


@pytest.mark.parametrize(
    "text", ["8080", ":8080", "0.0.0.0", "example.org:80", "0.0.0.0:0", "::1:80", "0.0.0.0:99999"]
)
def test_what_cannot_be_listened_on_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_listen(text)


@pytest.mark.parametrize("text", ["unix:", "unix:" + "x" * 104, "unix:a\0b", "tcp:1"])
def test_what_the_admin_api_cannot_listen_on_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_admin_address(text)


@pytest.mark.parametrize(
    ("text", "network"),
    [("10.0.0.0/8", "10.0.0.0/8"), ("192.0.2.1", "192.0.2.1/32"), ("FD00::/8", "fd00::/8")],
)
def test_a_network_is_in_cidr_form(text: str, network: str) -> None:
    assert parse_network(text) == network


def test_bits_beyond_the_prefix_are_refused_with_what_was_meant() -> None:
    with pytest.raises(ValueError, match=r"bits set beyond its prefix, expected 10\.0\.0\.0/8"):
        parse_network("10.1.0.0/8")


@pytest.mark.parametrize("text", ["", "10.0.0.0/33", "10.0.0", "example.org", "10.0.0.0/8/8"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a network, expected"):
        parse_network(text)


@pytest.mark.parametrize(
    ("text", "path"),
    [("/", "/"), ("/%61pi/", "/api/"), ("/caf%c3%a9", "/caf%C3%A9"), ("/a%2fb", "/a%2Fb")],
)
def test_a_path_is_as_requests_are_matched(text: str, path: str) -> None:
    assert parse_path(text) == path


@pytest.mark.parametrize(
    "text", ["", "api", "/a?b", "/a#b", "/a b", "/é", "/%", "/%zz", "/a/../b", "/%2e%2E/", "/."]
)
def test_a_path_that_no_request_can_match_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|no request can have"):
        parse_path(text)


@given(st.text(alphabet="/abZ09._~-%2eE61cF;:@!", max_size=20))
def test_a_routes_path_is_read_as_a_requests_path_is(tail: str) -> None:
    """What a route says and what a request says are the same octets; the router takes it."""
    try:
        path = parse_route_path("/" + tail)
    except ValueError:
        return
    assert match_path(("/" + tail).encode()) == path.encode()
    assert Router().add(b"", path.encode(), "route")


@given(st.text(alphabet="aZ09._-:[]*xn é\n", max_size=20))
def test_a_routes_host_is_read_as_a_requests_host_is(text: str) -> None:
    try:
        host = parse_route_host(text).removeprefix("*.")
    except ValueError:
        return
    assert valid_host(host.encode()) == (host.encode(), 0)


@pytest.mark.parametrize("text", ["/a//b", "/a;b", "/a%2Fb", "/a%3fb", "/a%5Cb", "/%00"])
def test_a_routes_path_has_one_reading(text: str) -> None:
    with pytest.raises(ValueError, match=r"two readings|expected"):
        parse_route_path(text)


def test_a_pattern_has_its_star_at_the_end() -> None:
    assert parse_path_pattern("/assets/*") == "/assets/*"
    assert parse_path_pattern("/logo.svg") == "/logo.svg"
    with pytest.raises(ValueError, match="has a \\* inside"):
        parse_path_pattern("/a*/b")


@pytest.mark.parametrize(
    "parse",
    [
        parse_endpoint,
        parse_host,
        parse_route_host,
        parse_listen,
        parse_admin_address,
        parse_network,
        parse_path,
        parse_path_pattern,
    ],
)
@given(text=st.text(max_size=40))
def test_a_parser_answers_or_says_why_not(parse: Callable[[str], object], text: str) -> None:
    message = ""
    try:
        parse(text)
    except UnicodeError:
        message = "\n"
    except ValueError as error:
        message = str(error)
    assert "\n" not in message
