"""Who asks: address lists, API keys, signed tokens, and what backends are told of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.board import layout
from gateway.config.snapshot import (
    ApiKey,
    ApiKeys,
    AuthScheme,
    Cohort,
    Jwt,
    Route,
    ServiceTraffic,
    Topology,
)
from gateway.policy.auth.apikeys import digest, mint
from gateway.policy.override import mint as mint_override
from gateway.policy.override import mint_probe
from gateway.proxy.auth import MEMO_SIZE, KeyRing, TokenScheme
from tests.support.issuer import ISSUER, NOW, jwk, key_set, terms, token
from tests.support.rig import EPOCH, Rig, topology, traffic

KEY, _ = mint(bytes(range(32)))
OTHER, _ = mint(bytes(range(1, 33)))
SOURCE = "https://id.example/jwks"


def partners(*, scopes: tuple[str, ...] = (), **more: Any) -> AuthScheme:
    keys = (ApiKey(name="acme", digest=digest(KEY.encode()), scopes=scopes),)
    values: dict[str, Any] = {"field": "X-API-Key", "name_field": "X-Client-Name"}
    return AuthScheme(name="partners", api_keys=ApiKeys(keys=keys, **(values | more)))


def users(**more: Any) -> AuthScheme:
    values: dict[str, Any] = {"keys": key_set(), "claims": (("sub", "X-User-Id"),)}
    return AuthScheme(name="users", jwt=terms(**(values | more)))


def guarded(
    *auth: str, cache: bool = False, schemes: tuple[AuthScheme, ...] = (), **route: Any
) -> Topology:
    more = {name: route.pop(name) for name in ("cohort", "trusted_proxies", "internal_callers")
            if name in route}  # fmt: skip
    return topology(
        routes=[Route(path="/", service="web", auth=auth, cache=cache, **route)],
        auth=schemes or (partners(), users()),
        **more,
    )


def bearer(credential: str | bytes) -> str:
    text = credential if isinstance(credential, str) else credential.decode()
    return f"Authorization: Bearer {text}\r\n"


def counted(rig: Rig, result: str) -> int:
    return rig.slab(layout.S_AUTH + layout.AUTH_RESULTS.index(result))


def asked(rig: Rig, fields: str = "", target: str = "/") -> dict[bytes, bytes]:
    """Send a request that is let through; return what the backend gets."""
    rig.client.get(target, fields)
    backend = rig.backend()
    got = backend.fields
    backend.ok()
    assert rig.client.answer().status == 200
    return got


def refused(rig: Rig, fields: str = "") -> tuple[int, bytes | None]:
    answer = rig.client.get("/", fields).answer()
    assert answer.field(b"content-type") == b"application/problem+json"
    assert json.loads(answer.body)["status"] == answer.status
    assert not rig.dialling
    return answer.status, answer.field(b"www-authenticate")


# --- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allow", "deny", "status"),
    [
        (("192.0.2.0/24",), (), 200),
        (("198.51.100.0/24",), (), 403),
        ((), ("192.0.2.1/32",), 403),
        (("192.0.2.0/24",), ("192.0.2.1/32",), 403),
        ((), ("2001:db8::/32",), 200),
    ],
)
def test_address_lists_let_in_whom_they_name_and_deny_wins(
    rig: Rig, allow: tuple[str, ...], deny: tuple[str, ...], status: int
) -> None:
    rig.serve(guarded(allow=allow, deny=deny))
    if status == 200:
        asked(rig)
    else:
        assert refused(rig) == (403, None)
        assert counted(rig, "address") == 1


def test_the_address_is_the_one_behind_trusted_proxies(rig: Rig) -> None:
    rig.serve(guarded(allow=("203.0.113.7/32",), trusted_proxies=("192.0.2.0/24",)))
    asked(rig, "X-Forwarded-For: 203.0.113.7\r\n")
    assert refused(rig, "X-Forwarded-For: 203.0.113.8\r\n")[0] == 403


def test_no_client_forges_its_address(rig: Rig) -> None:
    rig.serve(guarded(allow=("203.0.113.7/32",)))
    assert refused(rig, "X-Forwarded-For: 203.0.113.7\r\n")[0] == 403


@pytest.mark.parametrize(
    ("peer", "fields", "status"),
    [
        ("::ffff:203.0.113.7", "", 200),
        ("::ffff:203.0.113.9", "", 403),
        ("::ffff:192.0.2.1", "X-Forwarded-For: ::ffff:203.0.113.7\r\n", 200),
        ("192.0.2.1", "X-Forwarded-For: ::FFFF:203.0.113.9\r\n", 403),
        ("192.0.2.1", "X-Forwarded-For: [2001:db8::7]:443\r\n", 200),
        # The nearest that no trusted proxy is counts, whatever stands before it.
        ("192.0.2.1", "X-Forwarded-For: 203.0.113.7, 198.51.100.1\r\n", 403),
        ("192.0.2.1", "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-For: 198.51.100.1\r\n", 403),
        ("192.0.2.1", "X-Forwarded-For: nonsense\r\n", 403),
    ],
)
def test_one_address_in_any_spelling_is_one(rig: Rig, peer: str, fields: str, status: int) -> None:
    allow, deny = ("203.0.113.0/24", "2001:db8::7/128"), ("203.0.113.9/32",)
    rig.serve(guarded(allow=allow, deny=deny, trusted_proxies=("192.0.2.0/24",)))
    rig.connect(peer)
    if status == 200:
        asked(rig, fields)
    else:
        assert refused(rig, fields)[0] == status


# --- the gateway's own checks ---------------------------------------------------------------------

PROBES = b"a secret of control's own, 32 octets"
TESTERS = b"0123456789abcdef0123456789abcdef"


def probe(secret: bytes = PROBES, lasts: int = 30) -> str:
    return mint_probe(secret, "blue", int(EPOCH) + lasts, "web")


def override_of(secret: bytes = TESTERS) -> str:
    ends = int(EPOCH) + 60
    return mint_override(secret, host="a.example", release="r-1", side="stable", expires=ends)


@pytest.mark.parametrize(
    ("fields", "target"),
    [
        # A tester's token chooses a side and is nobody's credential.
        (f"gw_override: {override_of()}\r\n", "/"),
        (f"Cookie: gw_override={override_of()}\r\n", "/"),
        # Tokens of a check's kind by whoever does not have control's secret, or has an old one.
        (f"gw_override: {probe(TESTERS)}\r\n", "/"),
        (f"gw_override: {probe(b'')}\r\n", "/"),
        (f"gw_override: {probe(lasts=0)}\r\n", "/"),
        (f"gw_override: {probe().replace('.web.', '.shop.')}\r\n", "/"),
        (f"gw_override: {probe().rpartition('.')[0]}.\r\n", "/"),
        (f"gw_override: {override_of(PROBES)}\r\n", "/"),
        (f"gw_override: x\r\ngw_override: {probe()}\r\n", "/"),
        # A real one counts in its field alone: what ends up in a log or a history does not.
        (f"Cookie: gw_override={probe()}\r\n", "/"),
        ("", f"/?gw_override={probe()}"),
        (f"gw-override: {probe()}\r\n", "/"),
        # Looks like a probe, says it is internal.
        ("User-Agent: gateway-probe\r\nX-Gateway-Probe: L4\r\nX-Forwarded-For: 127.0.0.1\r\n", "/"),
        ("X-Release-Role: stable\r\nX-Release-Id: r-1\r\nX-Release-Key: 0123456789abcdef\r\n", "/"),
        ("", "/healthz"),
        ("", "/.well-known/acme-challenge/x"),
    ],
)
def test_no_stranger_passes_as_one_of_the_gateways_own_checks(
    rig: Rig, fields: str, target: str
) -> None:
    cohort = Cohort(probe_secret=PROBES, secret=TESTERS)
    rig.serve(
        guarded("users", cohort=cohort),
        traffic(ServiceTraffic(service="web", stable="blue"), release="r-1"),
    )
    answer = rig.client.get(target, fields).answer()
    assert answer.status == 401
    assert not rig.dialling


def test_the_gateways_own_check_passes_without_being_asked(rig: Rig) -> None:
    """So that the test above can fail; and the backend learns neither token nor an identity."""
    rig.serve(guarded("users", deny=("192.0.2.0/24",), cohort=Cohort(probe_secret=PROBES)))
    got = asked(rig, f"gw_override: {probe()}\r\nX-User-Id: root\r\n")
    assert not {b"gw_override", b"x-user-id"} & got.keys()


@pytest.mark.parametrize("secret", [None, b""])
def test_without_a_secret_nobody_is_a_check(rig: Rig, secret: bytes | None) -> None:
    rig.serve(guarded("users", cohort=Cohort(probe_secret=secret)))
    assert refused(rig, f"gw_override: {probe(b'')}\r\n")[0] == 401


# --- API keys ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [bearer(KEY), f"X-API-Key: {KEY}\r\n", f"x-api-key: {KEY}\r\n"])
def test_an_api_key_admits_and_goes_no_further(rig: Rig, fields: str) -> None:
    rig.serve(guarded("partners"))
    got = asked(rig, fields)
    assert got[b"x-client-name"] == b"acme"
    assert KEY.encode() not in b"".join(got.values())
    assert rig.log[-1]["subject"] == "partners:acme"
    assert KEY not in json.dumps(rig.log)
    assert counted(rig, "admitted") == 1


@pytest.mark.parametrize("fields", [bearer(OTHER), f"X-API-Key: {OTHER}\r\n", "X-API-Key: \r\n"])
def test_an_unknown_key_is_refused(rig: Rig, fields: str) -> None:
    rig.serve(guarded("partners"))
    status, said = refused(rig, fields)
    assert status == 401
    assert said is not None
    assert b'error="invalid_token"' in said
    assert counted(rig, "invalid") == 1


def test_the_hash_of_a_key_is_no_key(rig: Rig) -> None:
    rig.serve(guarded("partners"))
    assert refused(rig, bearer(digest(KEY.encode()).hex()))[0] == 401


def test_two_keys_are_none(rig: Rig) -> None:
    rig.serve(guarded("partners"))
    assert refused(rig, f"X-API-Key: {OTHER}\r\nX-API-Key: {KEY}\r\n")[0] == 401
    assert refused(rig, bearer(KEY) + bearer(KEY))[0] == 401


def test_no_credential_is_asked_for_one(rig: Rig) -> None:
    rig.serve(guarded("partners"))
    assert refused(rig) == (401, b'Bearer realm="gateway"')
    assert counted(rig, "missing") == 1


def test_a_key_that_is_taken_out_counts_no_more_after_a_reload(rig: Rig) -> None:
    rig.serve(guarded("partners"))
    asked(rig, bearer(KEY))
    rig.serve(guarded("partners", schemes=(AuthScheme(name="partners", api_keys=ApiKeys()),)))
    assert refused(rig, bearer(KEY))[0] == 401


def test_scopes_are_asked_for(rig: Rig) -> None:
    rig.serve(guarded("partners", scopes=("orders:read",)))
    status, said = refused(rig, bearer(KEY))
    assert status == 403
    assert said is not None
    assert said.endswith(b'error="insufficient_scope", scope="orders:read"')
    assert counted(rig, "forbidden") == 1
    allowed = (partners(scopes=("orders:read", "more")),)
    rig.serve(guarded("partners", scopes=("orders:read",), schemes=allowed))
    asked(rig, bearer(KEY))


# --- tokens --------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_token_admits_and_tells_the_backend_who_it_is(rig: Rig, algorithm: str) -> None:
    rig.serve(guarded("users"))
    made = token(algorithm)
    got = asked(rig, bearer(made))
    assert got[b"x-user-id"] == b"alice"
    assert got[b"authorization"] == b"Bearer " + made
    assert "alice" not in json.dumps(rig.log)
    assert made.decode() not in json.dumps(rig.log)


def test_a_token_with_a_break_in_a_claim_is_refused(rig: Rig) -> None:
    rig.serve(guarded("users"))
    assert refused(rig, bearer(token(sub="a\r\nX-Admin: 1")))[0] == 401


def test_a_remembered_token_ends_when_it_expires(rig: Rig) -> None:
    rig.serve(guarded("users"))
    made = bearer(token(exp=NOW + 60))
    asked(rig, made)
    rig.wall = NOW + 91
    status, said = refused(rig, made)
    assert status == 401
    assert said is not None
    assert b"expired" in said


def test_a_bad_token_is_refused_where_one_is_optional(rig: Rig) -> None:
    rig.serve(guarded("users", auth_optional=True))
    assert b"x-user-id" not in asked(rig)
    assert counted(rig, "anonymous") == 1
    assert refused(rig, bearer(token(which=1)))[0] == 401
    assert refused(rig, bearer("nonsense"))[0] == 401
    assert refused(rig, "Authorization: Bearer \r\n")[0] == 401


def test_either_of_two_schemes_is_enough(rig: Rig) -> None:
    rig.serve(guarded("users", "partners"))
    assert asked(rig, bearer(token()))[b"x-user-id"] == b"alice"
    assert asked(rig, bearer(KEY))[b"x-client-name"] == b"acme"
    assert refused(rig, bearer(token(which=1)))[0] == 401


def test_a_route_without_auth_has_the_backends_credentials_pass(rig: Rig) -> None:
    rig.serve(guarded())
    assert asked(rig, bearer("whatever"))[b"authorization"] == b"Bearer whatever"


# --- the issuer's keys ---------------------------------------------------------------------------


def test_without_the_issuers_keys_nobody_is_told_that_a_token_is_bad(rig: Rig) -> None:
    rig.serve(guarded("users", schemes=(users(keys=b"", source=SOURCE),)))
    answer = rig.client.get("/", bearer(token())).answer()
    assert answer.status == 503
    assert answer.field(b"retry-after") == b"5"
    assert rig.unknown == [SOURCE]
    rig.ring.update({SOURCE: key_set()})
    asked(rig, bearer(token()))


def test_an_unknown_key_is_told_to_control_once_a_second(rig: Rig) -> None:
    rig.serve(guarded("users", schemes=(users(keys=b"", source=SOURCE),)))
    rig.ring.update({SOURCE: key_set(jwk("ES256", "old", 1))})
    for _ in range(3):
        assert refused(rig, bearer(token()))[0] == 401
    assert rig.unknown == [SOURCE]
    rig.ring.update({SOURCE: key_set()})
    asked(rig, bearer(token()))


def test_a_key_that_its_issuer_took_back_voids_remembered_tokens(rig: Rig) -> None:
    rig.serve(guarded("users", schemes=(users(keys=b"", source=SOURCE),)))
    rig.ring.update({SOURCE: key_set()})
    asked(rig, bearer(token()))
    rig.ring.update({SOURCE: key_set(jwk("ES256", "new", 1))})
    assert refused(rig, bearer(token()))[0] == 401


def test_a_set_that_cannot_be_read_leaves_the_one_before() -> None:
    ring = KeyRing()
    ring.update({SOURCE: key_set()})
    ring.update({SOURCE: b"<html>"})
    assert ring.of(SOURCE) is not None


def test_remembered_tokens_are_bounded(whole: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MEMO_SIZE <= 10_000
    monkeypatch.setattr("gateway.proxy.auth.MEMO_SIZE", 3)
    whole.serve(guarded("users"))
    for number in range(6):
        asked(whole, bearer(token(sub=f"user-{number}")))
    scheme = whole.builder._guards._schemes["users"]
    assert isinstance(scheme, TokenScheme)
    assert len(scheme._memo) == 3


# --- what clients say of themselves --------------------------------------------------------------

FORGED = (
    "X-User-Id: root\r\nx-user-id: root\r\nX_User_Id: root\r\nX-User_Id: root\r\n"
    "X-Client-Name: root\r\nX-Cohort: root\r\n"
)


@pytest.mark.parametrize(
    ("auth", "credential"), [((), ""), (("users",), bearer(token())), (("partners",), bearer(KEY))]
)
def test_forged_identities_reach_no_backend(
    rig: Rig, auth: tuple[str, ...], credential: str
) -> None:
    rig.serve(guarded(*auth, cohort=Cohort(header="X-Cohort")))
    got = asked(rig, FORGED + credential)
    assert b"root" not in got.values()


def test_a_trusted_peer_may_say_who_it_is_for(rig: Rig) -> None:
    rig.serve(guarded(cohort=Cohort(header="X-Cohort"), internal_callers=("192.0.2.0/24",)))
    got = asked(rig, "X-User-Id: bob\r\nX-Cohort: bob\r\n")
    assert (got[b"x-user-id"], got[b"x-cohort"]) == (b"bob", b"bob")


def test_what_was_verified_here_outranks_a_trusted_peer(rig: Rig) -> None:
    rig.serve(guarded("users", trusted_proxies=("192.0.2.0/24",)))
    assert asked(rig, "X-User-Id: bob\r\n" + bearer(token()))[b"x-user-id"] == b"alice"


def test_a_subject_keeps_its_side_from_every_address(rig: Rig) -> None:
    rig.serve(guarded("users"), traffic(ServiceTraffic(service="web", stable="blue", weight=5000)))
    keys = set()
    for peer in ("192.0.2.1", "198.51.100.9"):
        rig.connect(peer)
        keys.add(asked(rig, bearer(token()))[b"x-release-key"])
    assert len(keys) == 1
    rig.connect("192.0.2.1")
    assert asked(rig, bearer(token(sub="bob")))[b"x-release-key"] not in keys


# --- the cache -----------------------------------------------------------------------------------


def cached(rig: Rig, fields: str, answer: str) -> bytes:
    """Ask; have the backend answer with the subject that it was told of, where it is asked."""
    rig.client.get("/", fields)
    if rig.dialling or any(backend.sent for backend in rig.backends):
        backend = rig.backend()
        who = backend.fields.get(b"x-user-id", b"nobody")
        backend.ok(who, answer)
    return rig.client.answer().body


@pytest.mark.parametrize(
    "answer",
    [
        "Cache-Control: max-age=60\r\nVary: Authorization\r\n",
        "Cache-Control: public, max-age=60\r\nVary: X-User-Id\r\n",
    ],
)
def test_no_subject_sees_anothers_answer(whole: Rig, tmp_path: Path, answer: str) -> None:
    whole.caches(tmp_path)
    whole.serve(guarded("users", cache=True, auth_optional=True))
    for who in ("alice", "bob", "alice"):
        assert cached(whole, bearer(token(sub=who)), answer) == who.encode()
    assert cached(whole, "", answer) == b"nobody"
    assert cached(whole, "X-User-Id: bob\r\n", answer) == b"nobody"
    assert cached(whole, bearer(token(sub="bob")), answer) == b"bob"


# --- nothing is shown ----------------------------------------------------------------------------


def test_no_repr_shows_a_hash_or_a_key() -> None:
    shown = repr(guarded("partners")) + repr(Jwt(issuer=ISSUER))
    assert digest(KEY.encode()).hex() not in shown
    assert repr(digest(KEY.encode())) not in shown


def test_a_route_whose_scheme_is_not_there_is_not_served_unguarded(rig: Rig) -> None:
    with pytest.raises(ValueError, match="no scheme is called nobody"):
        rig.serve(guarded("nobody"))
