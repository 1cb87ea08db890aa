"""Security fields: added where the backend has not set them."""

from __future__ import annotations

import itertools

import pytest

from gateway.config.snapshot import SecurityProfile
from gateway.policy.security import MEMO_SIZE, SecurityFields
from gateway.wire.fields import BY_NAME, mask
from gateway.wire.head import Head, parse_response

PAGE = SecurityProfile(
    name="page",
    fields=(
        ("X-Frame-Options", "DENY"),
        ("Content-Security-Policy-Report-Only", "default-src 'self'"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
    ),
    tls_fields=(("Strict-Transport-Security", "max-age=300"),),
)
FRAME = b"X-Frame-Options: DENY\r\n"
CSP = b"Content-Security-Policy-Report-Only: default-src 'self'\r\n"
OPENER = b"Cross-Origin-Opener-Policy: same-origin\r\n"
HSTS = b"Strict-Transport-Security: max-age=300\r\n"


def test_all_are_added_where_none_is_there() -> None:
    assert SecurityFields(PAGE, tls=False).block(0) == FRAME + CSP + OPENER
    assert SecurityFields(PAGE, tls=True).block(0) == FRAME + CSP + OPENER + HSTS


def test_what_the_backend_set_stands() -> None:
    fields = SecurityFields(PAGE, tls=True)
    seen = mask(BY_NAME[b"x-frame-options"], BY_NAME[b"content-type"])
    assert fields.block(seen) == CSP + OPENER + HSTS
    assert fields.block(seen) is fields.block(seen | mask(BY_NAME[b"server"]))
    assert fields.block(mask(*BY_NAME.values())) == OPENER


def test_names_without_a_number_have_a_bit() -> None:
    fields = SecurityFields(PAGE, tls=False)
    assert fields.unnumbered == (b"cross-origin-opener-policy",)
    assert fields.block(0, 1) == FRAME + CSP
    assert fields.block(0) == FRAME + CSP + OPENER
    assert fields.names == (
        b"x-frame-options",
        b"content-security-policy-report-only",
        b"cross-origin-opener-policy",
    )


def test_every_combination_of_many_fields_is_right_and_few_are_kept() -> None:
    names = sorted(BY_NAME)[:8]
    profile = SecurityProfile(name="p", fields=tuple((name.decode(), "x") for name in names))
    fields = SecurityFields(profile, tls=True)
    for _ in range(2):
        for chosen in itertools.product([False, True], repeat=8):
            seen = mask(*(BY_NAME[n] for n, there in zip(names, chosen, strict=True) if there))
            expected = b"".join(
                n + b": x\r\n" for n, there in zip(names, chosen, strict=True) if not there
            )
            assert fields.block(seen) == expected
    assert MEMO_SIZE < 2**8


@pytest.mark.parametrize(
    "field",
    [("X: y", "z"), ("", "z"), ("X", "a\r\nB: c"), ("X", "a\x00"), ("X\n", "a"), ("X", "€")],
)
def test_what_is_no_field_is_refused(field: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="is no field"):
        SecurityFields(SecurityProfile(name="p", fields=(field,)), tls=False)


def answer(fields: str, status: str = "200 OK") -> Head:
    head = parse_response(f"HTTP/1.1 {status}\r\n{fields}\r\n".encode())
    assert head is not None
    return head


def kept(head: Head) -> bytes:
    return head.render(b"", 0, b"")[:-2]


def test_what_the_backend_set_stands_with_or_without_a_number() -> None:
    head = answer("cross-origin-OPENER-policy: unsafe-none\r\nX-Frame-Options: SAMEORIGIN\r\n")
    assert SecurityFields(PAGE, tls=False).dress(head) == CSP
    assert kept(head).count(b"\r\n") == 2


def test_what_the_profile_overrides_replaces_the_backends() -> None:
    profile = SecurityProfile(
        name="p",
        fields=PAGE.fields,
        override=("x-frame-options", "cross-origin-opener-policy"),
    )
    head = answer(
        "X-Frame-Options: ALLOWALL\r\nCross-Origin-Opener-Policy: unsafe-none\r\n"
        "cross-origin-opener-policy: also\r\nX-A: b\r\n"
    )
    assert SecurityFields(profile, tls=False).dress(head) == FRAME + CSP + OPENER
    assert kept(head) == b"X-A: b\r\n"


def test_what_leaks_is_taken_off_everywhere_it_stands() -> None:
    profile = SecurityProfile(name="p", remove=("X-Own",))
    fields = SecurityFields(profile, tls=False, removed=("Server", "X-Powered-By"))
    head = answer(
        "server: a\r\nContent-Type: text/plain\r\nX-POWERED-BY: b\r\nX-Own: c\r\nX-Owner: d\r\n"
        "Server: e\r\nx-powered-by: f\r\n"
    )
    assert fields.dress(head) == b""
    assert kept(head) == b"Content-Type: text/plain\r\nX-Owner: d\r\n"


def test_a_removed_field_that_the_profile_sets_is_the_profiles() -> None:
    profile = SecurityProfile(name="p", fields=(("Server", "web"),))
    fields = SecurityFields(profile, tls=False, removed=("Server",))
    head = answer("Server: leaky/1.2.3\r\n")
    assert fields.dress(head) == b"Server: web\r\n"
    assert kept(head) == b""


def test_a_value_with_a_nonce_stays_off_what_is_not_modified() -> None:
    policy = ("Content-Security-Policy", "script-src 'nonce-{nonce}'")
    fields = SecurityFields(SecurityProfile(name="p", fields=(policy, ("X-A", "b"))), tls=False)
    assert fields.nonce
    assert b"{nonce}" in fields.dress(answer(""))
    assert fields.dress(answer("", "304 Not Modified")) == b"X-A: b\r\n"
    assert not SecurityFields(PAGE, tls=False).nonce
