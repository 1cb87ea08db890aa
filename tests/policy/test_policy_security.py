"""Security fields: added where the backend has not set them."""

from __future__ import annotations

import itertools

import pytest

from gateway.config.snapshot import SecurityProfile
from gateway.policy.security import MEMO_SIZE, SecurityFields
from gateway.wire.fields import BY_NAME, mask

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


def test_names_without_a_number_are_told_by_the_caller() -> None:
    fields = SecurityFields(PAGE, tls=False)
    assert fields.unnumbered == (b"cross-origin-opener-policy",)
    assert fields.block(0, frozenset(fields.unnumbered)) == FRAME + CSP
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
