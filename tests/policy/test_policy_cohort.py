"""Cohorts: fair, sticky, strangers to the last release; cookies read and stripped exactly."""

from __future__ import annotations

import base64
import hashlib
import re
from http.cookies import SimpleCookie

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy import cohort
from gateway.policy.cohort import (
    BUCKETS,
    Splitter,
    address_key,
    cohort_cookie,
    cohort_key,
    cookie_key,
    cookie_value,
    is_candidate,
    is_navigation,
    new_cookie_value,
    set_cookie_field,
    strip_cookies,
)

KEYS = 100_000
GOOD = b"AAECAwQFBgcICQoLDA0ODw"  # octets 0 to 15


def _buckets(salt: bytes, count: int = KEYS) -> list[int]:
    splitter = Splitter(salt)
    values = (new_cookie_value(hashlib.sha256(b"%d" % n).digest()[:16]) for n in range(count))
    return [splitter.decide(cookie_key(value)) for value in values]


@pytest.fixture(scope="module")
def buckets() -> list[int]:
    return _buckets(b"release-1")


# --- splitting -----------------------------------------------------------------------------------


@pytest.mark.parametrize("percent", [5, 20, 50])
def test_the_share_is_within_three_standard_deviations(buckets: list[int], percent: int) -> None:
    weight = percent * BUCKETS // 100
    share = percent / 100
    on_candidate = sum(is_candidate(bucket, weight) for bucket in buckets)
    deviation = (KEYS * share * (1 - share)) ** 0.5
    assert abs(on_candidate - KEYS * share) < 3 * deviation


def test_raising_the_weight_moves_nobody_off_the_candidate(buckets: list[int]) -> None:
    before: set[int] = set()
    for weight in (0, 1, 50, 500, 501, 2000, 5000, 9999, 10_000):
        now = {n for n, bucket in enumerate(buckets) if is_candidate(bucket, weight)}
        assert before <= now
        before = now
    assert len(before) == KEYS


def test_zero_is_none_and_all_is_all(buckets: list[int]) -> None:
    assert min(buckets) == 0
    assert max(buckets) == BUCKETS - 1
    assert not any(is_candidate(bucket, 0) for bucket in buckets)
    assert all(is_candidate(bucket, BUCKETS) for bucket in buckets)


def test_a_hundredth_of_a_percent_is_one_bucket(buckets: list[int]) -> None:
    # Binomial(100,000, 1/10,000): 10 expected, standard deviation 3.2.
    assert 0 < sum(is_candidate(bucket, 1) for bucket in buckets) < 25


def test_buckets_are_even(buckets: list[int]) -> None:
    counts = [0] * 100
    for bucket in buckets:
        counts[bucket // 100] += 1
    chi_square = sum((count - 1000) ** 2 / 1000 for count in counts)
    assert 50 < chi_square < 160  # 99 degrees of freedom: 99 +- 4.4 standard deviations


@pytest.mark.parametrize("percent", [5, 20, 50])
def test_another_salt_has_other_guinea_pigs(buckets: list[int], percent: int) -> None:
    weight = percent * BUCKETS // 100
    others = _buckets(b"release-2")
    both = sum(a < weight and b < weight for a, b in zip(buckets, others, strict=True))
    chance = (percent / 100) ** 2  # as independent draws would have it
    assert abs(both - KEYS * chance) < 3 * (KEYS * chance * (1 - chance)) ** 0.5


def test_a_decision_is_the_same_in_every_worker_and_for_ever() -> None:
    # Written down: a change of these moves every user of a running release.
    assert Splitter(b"release-1").assign(b"c:" + GOOD) == (2631, b"7156a58f8c695f54")
    assert Splitter(b"").assign(b"a:192.0.2.1") == (8916, b"3b162065fa715a86")
    assert Splitter(b"s" * 100).assign(b"i:alice") == (9958, b"9e3e5595d1b4cd3b")


def test_a_decision_is_keyed_blake2b() -> None:
    state = hashlib.blake2b(b"k", key=b"salt", digest_size=16, person=b"gateway-cohort")
    digest = state.digest()
    assert Splitter(b"salt").assign(b"k") == (
        int.from_bytes(digest[:7], "big") % BUCKETS,
        digest[8:].hex().encode(),
    )


def test_salts_longer_than_a_key_differ_to_the_last_octet() -> None:
    a, b = Splitter(b"x" * 99 + b"a"), Splitter(b"x" * 99 + b"b")
    assert [a.decide(b"%d" % n) for n in range(5)] != [b.decide(b"%d" % n) for n in range(5)]
    assert a.salt.endswith(b"a")


def test_the_memo_is_bounded_and_changes_nothing() -> None:
    splitter = Splitter(b"s")
    keys = [b"%d" % n for n in range(2 * cohort.MEMO_SIZE + 10)]
    first = [splitter.assign(key) for key in keys]
    assert [splitter.assign(key) for key in keys] == first
    assert [Splitter(b"s").assign(key) for key in keys[:10]] == first[:10]
    assert splitter.assign(keys[-1]) is splitter.assign(keys[-1])
    assert splitter.assign(b"x" * 5000) == Splitter(b"s").assign(b"x" * 5000)


@given(st.binary(max_size=80), st.binary(max_size=300))
def test_any_key_has_a_bucket_and_an_opaque_form(salt: bytes, key: bytes) -> None:
    bucket, opaque = Splitter(salt).assign(key)
    assert 0 <= bucket < BUCKETS
    assert re.fullmatch(rb"[0-9a-f]{16}", opaque)


def test_opaque_keys_do_not_tell_buckets() -> None:
    splitter = Splitter(b"s")
    pairs = [splitter.assign(b"%d" % n) for n in range(20_000)]
    low = sum(int(opaque, 16) % BUCKETS < 5000 for bucket, opaque in pairs if bucket < 5000)
    half = sum(bucket < 5000 for bucket, _ in pairs) / 2
    assert abs(low - half) < 4 * (half / 2) ** 0.5


# --- keys ----------------------------------------------------------------------------------------


def test_cookie_before_identity_before_address() -> None:
    field = b"x=1; gw_cohort=" + GOOD
    assert cohort_key(field, b"gw_cohort", b"alice", "192.0.2.1") == (b"c:" + GOOD, "cookie")
    assert cohort_key(b"x=1", b"gw_cohort", b"alice", "192.0.2.1") == (b"i:alice", "identity")
    assert cohort_key(None, b"gw_cohort", b"", "192.0.2.1") == (b"a:192.0.2.1", "address")
    assert cookie_key(GOOD) == b"c:" + GOOD


def test_a_forged_cookie_counts_as_none() -> None:
    for value in (b"", b"x", GOOD[:-1], GOOD + b"A", GOOD[:-1] + b"x", b"+" + GOOD[1:]):
        assert cohort_key(b"gw_cohort=" + value, b"gw_cohort", None, "::1")[1] == "address"


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", b"192.0.2.1"),
        ("::ffff:192.0.2.1", b"192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", b"2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", b"2001:db8:1:2::/64"),
        ("::1", b"::/64"),
        ("fe80::1%eth0", b"fe80::/64"),
        ("", b""),
        ("@unix", b"@unix"),
    ],
)
def test_address_keys(address: str, key: bytes) -> None:
    assert address_key(address) == key
    assert address_key(address) == key  # from the memo too


def test_neighbours_in_one_64_are_one_client_and_beyond_it_are_not() -> None:
    assert address_key("2001:db8::1") == address_key("2001:db8::ffff:1")
    assert address_key("2001:db8::1") != address_key("2001:db8:0:1::1")


def test_the_memo_of_addresses_is_bounded() -> None:
    for n in range(2 * cohort.MEMO_SIZE):
        address_key(f"10.{n >> 16}.{(n >> 8) & 255}.{n & 255}")
    assert len(address_key("x" * 1000)) < 200
    addresses = cohort._addresses
    assert len(addresses) <= cohort.MEMO_SIZE


# --- cookies -------------------------------------------------------------------------------------


def test_a_new_cookie_is_one_of_ours() -> None:
    value = new_cookie_value(bytes(range(16)))
    assert value == GOOD
    assert cohort_cookie(b"gw_cohort=" + value, b"gw_cohort") == value
    with pytest.raises(ValueError, match="16 random octets"):
        new_cookie_value(b"short")


@given(st.binary(min_size=16, max_size=16))
def test_every_cookie_that_is_made_is_read_back(random16: bytes) -> None:
    value = new_cookie_value(random16)
    assert base64.urlsafe_b64decode(value + b"==") == random16
    assert cohort_cookie(b"a=1; c=%s;b=2" % value, b"c") == value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"c=" + GOOD, GOOD),
        (b"a=b;c=" + GOOD, GOOD),
        (b"a=b; \t c=" + GOOD + b" ; d=e", GOOD),
        (b"  c=" + GOOD, GOOD),
        (b"c=bad; c=" + GOOD, GOOD),
        (b"c; c=" + GOOD, GOOD),
        (b"xc=" + GOOD, None),
        (b"a=c=" + GOOD, None),
        (b"a=x c=" + GOOD, None),
        (b'c="' + GOOD + b'"', None),
        (b"c= " + GOOD, None),
        (b"c=" + GOOD + b"=", None),
        (b"c=" + GOOD + b",", None),
        (b"C=" + GOOD, None),
        (b"c", None),
        (b"c=", None),
        (b"", None),
    ],
)
def test_the_cohort_cookie(field: bytes, value: bytes | None) -> None:
    assert cohort_cookie(field, b"c") == value


def test_a_cookie_without_a_name_is_nobodys() -> None:
    assert cohort_cookie(b"=" + GOOD, b"") is None
    assert cookie_value(b"=x", b"") is None
    assert strip_cookies(b"=x", (b"",)) == b"=x"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"a=1; b=2", b"2"),
        (b"b= x y \t; a=1", b"x y"),
        (b"b=; b=2", b""),
        (b"b=x=y", b"x=y"),
        (b"bb=1", None),
    ],
)
def test_any_cookies_first_value(field: bytes, value: bytes | None) -> None:
    assert cookie_value(field, b"b") == value


OURS = (b"gw_cohort", b"gw_override")


@pytest.mark.parametrize(
    ("field", "left"),
    [
        (b"gw_cohort=x", b""),
        (b"gw_cohort=x; gw_override=y", b""),
        (b"gw_override=y;gw_cohort=x;", b""),
        (b" gw_cohort=x ; ", b""),
        (b"a=1; gw_cohort=x", b"a=1"),
        (b"gw_cohort=x; a=1", b"a=1"),
        (b"a=1; gw_cohort=x; b=2", b"a=1; b=2"),
        (b"a=1;gw_cohort=x;b=2", b"a=1;b=2"),
        (b"a=1; gw_cohort=x; b=2; gw_override=z; c=3", b"a=1; b=2; c=3"),
        (b"a=1; gw_cohort=x; gw_cohort=y; b=2", b"a=1; b=2"),
        (b"a=gw_cohort=x; b=2", b"a=gw_cohort=x; b=2"),
        (b"xgw_cohort=x; b=2", b"xgw_cohort=x; b=2"),
        (b"gw_cohort; a=1", b"gw_cohort; a=1"),
        (b'a="1, 2" ;  b = 2;;', b'a="1, 2" ;  b = 2;;'),
        (b"", b""),
    ],
)
def test_the_gateways_own_cookies_are_stripped(field: bytes, left: bytes) -> None:
    assert strip_cookies(field, OURS) == left


def test_a_field_without_ours_is_not_copied() -> None:
    field = b"a=1; b=gw_cohort"
    assert strip_cookies(field, OURS) is field


_BIT = st.sampled_from([b"gw_cohort", b"gw_override", b"a", b"=", b";", b"; ", b" ", b"\t", b"x"])


@given(st.lists(_BIT, max_size=14).map(b"".join))
def test_stripping_takes_exactly_the_pairs_of_ours(field: bytes) -> None:
    left = strip_cookies(field, OURS)
    assert all(cookie_value(left, name) is None for name in OURS)

    def others(text: bytes) -> list[bytes]:
        pieces = [piece.strip(b" \t") for piece in text.split(b";")]
        return [p for p in pieces if p and not p.startswith((b"gw_cohort=", b"gw_override="))]

    assert others(left) == others(field)
    assert strip_cookies(left, OURS) == left


def test_thousands_of_ours_are_stripped_in_one_pass() -> None:
    assert strip_cookies(b"gw_cohort=x;" * 2700 + b"a=1", OURS) == b"a=1"


def test_set_cookie() -> None:
    line = set_cookie_field(b"gw_cohort", GOOD, 60, None, secure=False)
    assert (
        line == b"Set-Cookie: gw_cohort=%s; Max-Age=60; Path=/; HttpOnly; SameSite=Lax\r\n" % GOOD
    )
    line = set_cookie_field(b"gw_cohort", GOOD, 2_592_000, b"a.example", secure=True)
    jar = SimpleCookie(line.decode().removeprefix("Set-Cookie: "))["gw_cohort"]
    assert jar.value == GOOD.decode()
    assert jar["max-age"] == "2592000"
    assert jar["domain"] == "a.example"
    assert jar["path"] == "/"
    assert jar["samesite"] == "Lax"
    assert jar["secure"] is True
    assert jar["httponly"] is True


# --- navigations ---------------------------------------------------------------------------------

HTML = b"text/html,application/xhtml+xml,*/*;q=0.8"


@pytest.mark.parametrize(
    ("method", "mode", "accept", "any_sec_fetch", "expected"),
    [
        (b"GET", b"navigate", None, True, True),
        (b"POST", b"navigate", HTML, True, True),
        (b"GET", b"cors", HTML, True, False),
        (b"GET", b"no-cors", b"*/*", True, False),
        (b"GET", None, HTML, False, True),
        (b"HEAD", None, b"Text/HTML", False, True),
        (b"POST", None, HTML, False, False),
        (b"GET", None, b"*/*", False, False),
        (b"GET", None, b"application/json", False, False),
        (b"GET", None, None, False, False),
        # Some of Sec-Fetch-* is known: what is not said to be a navigation is none.
        (b"GET", None, HTML, True, False),
    ],
)
def test_navigations(
    method: bytes, mode: bytes | None, accept: bytes | None, any_sec_fetch: bool, expected: bool
) -> None:
    assert is_navigation(method, mode, accept, any_sec_fetch) is expected
