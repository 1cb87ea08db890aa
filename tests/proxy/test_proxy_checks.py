"""The guard's order: what is asked first, and what a refusal still says (see ``proxy.guard``)."""

from __future__ import annotations

from typing import Any

from gateway.config.snapshot import ApiKey, ApiKeys, AuthScheme, Cors, Limits, RateLimit, Route
from gateway.policy.auth.apikeys import digest, mint
from tests.support.rig import Answer, Client, Rig, topology

KEY, _ = mint(bytes(range(32)))
PARTNERS = AuthScheme(
    name="partners",
    api_keys=ApiKeys(keys=(ApiKey(name="acme", digest=digest(KEY.encode())),), field="X-API-Key"),
)
APP = Cors(name="app", origins=("https://app.example",), credentials=True)
ORIGIN = "Origin: https://app.example\r\n"
PREFLIGHT = f"{ORIGIN}Access-Control-Request-Method: GET\r\n"
WITH_KEY = f"X-API-Key: {KEY}\r\n"
ALLOWED = b"access-control-allow-origin"
EVERY_MINUTE = RateLimit(count=1, period=60.0)
BY_SUBJECT = RateLimit(count=1, period=60.0, key=("subject",))


def guarded(rig: Rig, *limits: RateLimit, **route: Any) -> None:
    """Serve one route with everything that a guard can ask."""
    route = {"auth": ("partners",), "cors": "app"} | route
    rig.serve(
        topology(
            number=2,
            routes=[Route(path="/", service="web", rate_limits=limits, **route)],
            auth=(PARTNERS,),
            cors=(APP,),
            limits=Limits(),
        )
    )


def asks(rig: Rig, client: Client, fields: str, method: str = "GET") -> Answer:
    client.send(f"{method} / HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n".encode())
    if not client.received:
        backend = rig.backend()
        backend.take()
        backend.ok()
    return client.answer()


def test_the_checks_of_a_route_stand_in_their_order(rig: Rig) -> None:
    guarded(rig, EVERY_MINUTE, BY_SUBJECT, deny=("192.0.2.9/32",))
    found = rig.core.serving.router.lookup(b"a.example", b"/")
    names = [type(each).__name__ for each in found.guard.checks]  # type: ignore[attr-defined]
    assert names == [
        "CorsFields",
        "AddressCheck",
        "LimitCheck",
        "CorsPreflight",
        "AuthCheck",
        "LimitCheck",
    ]


def test_whatever_is_refused_can_be_read_by_the_page_that_asked(rig: Rig) -> None:
    guarded(rig, EVERY_MINUTE, deny=("192.0.2.9/32",))
    denied = asks(rig, rig.connect("192.0.2.9"), ORIGIN)
    nobody = asks(rig, rig.connect("192.0.2.2"), ORIGIN)
    over = asks(rig, rig.connect("192.0.2.2"), ORIGIN + WITH_KEY)
    assert [each.status for each in (denied, nobody, over)] == [403, 401, 429]
    assert {each.field(ALLOWED) for each in (denied, nobody, over)} == {b"https://app.example"}
    assert all(b"Origin" in (each.field(b"vary") or b"") for each in (denied, nobody, over))


def test_who_is_not_let_in_spends_nothing_of_a_limit(rig: Rig) -> None:
    guarded(rig, EVERY_MINUTE, deny=("192.0.2.9/32",))
    client = rig.connect("192.0.2.9")
    for _ in range(3):
        answer = asks(rig, client, WITH_KEY)
        assert (answer.status, answer.field(b"ratelimit")) == (403, None)


def test_an_addresss_limit_is_met_before_a_credential_is_looked_at(rig: Rig) -> None:
    guarded(rig, EVERY_MINUTE)
    client = rig.connect()
    guesses = [asks(rig, client, f"X-API-Key: {guess}\r\n").status for guess in ("a", "b")]
    assert guesses == [401, 429]
    # The right key is no way round the limit of its address.
    assert asks(rig, client, WITH_KEY).status == 429


def test_a_preflight_needs_no_credential_and_counts(rig: Rig) -> None:
    guarded(rig, EVERY_MINUTE)
    client = rig.connect()
    first, second = (asks(rig, client, PREFLIGHT, "OPTIONS") for _ in range(2))
    assert (first.status, second.status) == (204, 429)
    assert not rig.dialling


def test_a_subjects_limit_is_not_spent_by_who_only_claims_to_be_it(rig: Rig) -> None:
    guarded(rig, BY_SUBJECT)
    client = rig.connect()
    assert asks(rig, client, "X-API-Key: acme\r\n").status == 401
    assert [asks(rig, client, WITH_KEY).status for _ in range(2)] == [200, 429]
    # From another address it is the same subject.
    assert asks(rig, rig.connect("192.0.2.77"), WITH_KEY).status == 429


def test_a_refusal_bears_what_was_counted_before_it(rig: Rig) -> None:
    guarded(rig, EVERY_MINUTE)
    answer = asks(rig, rig.connect(), "")
    assert answer.status == 401
    assert answer.field(b"ratelimit") == b'"client";r=0;t=60'


def test_an_option_without_a_preflights_field_is_authenticated(rig: Rig) -> None:
    guarded(rig)
    assert asks(rig, rig.connect(), ORIGIN, "OPTIONS").status == 401
