"""Rate limits, in conversation: who is turned away, what is said of it, what is counted."""

from __future__ import annotations

from typing import Any

import orjson

from gateway.board import layout
from gateway.config.snapshot import Limits, RateLimit, Route
from tests.support.rig import Answer, Client, Rig, service, topology

ONE = RateLimit(count=1, period=1.0)


def limited(rig: Rig, *limits: RateLimit, common: tuple[RateLimit, ...] = (), **more: Any) -> None:
    rig.serve(
        topology(
            number=2,
            services=[service()],
            routes=[Route(path="/", service="web", rate_limits=limits)],
            limits=Limits(rates=common),
            **more,
        )
    )


def asks(rig: Rig, client: Client, fields: str = "") -> Answer:
    """Have a client ask once; the backend answers where it is asked."""
    client.get(fields=fields)
    if not client.received:
        backend = rig.backend()
        backend.take()
        backend.ok()
    return client.answer()


def test_over_the_limit_is_429_with_when_to_come_again(rig: Rig) -> None:
    limited(rig, RateLimit(count=6, period=60.0, burst=1))
    client = rig.connect()
    first, second = asks(rig, client), asks(rig, client)
    assert (first.status, first.field(b"ratelimit")) == (200, b'"client";r=1;t=10')
    assert first.field(b"ratelimit-policy") == b'"client";q=2;w=20'
    assert (second.status, second.field(b"ratelimit")) == (200, b'"client";r=0;t=10')
    third = asks(rig, client)
    assert third.status == 429
    assert third.field(b"retry-after") == b"10"
    assert third.field(b"ratelimit") == b'"client";r=0;t=10'
    assert third.field(b"ratelimit-policy") == b'"client";q=2;w=20'
    assert third.field(b"x-gateway-error") == b"rate-limited"
    assert orjson.loads(third.body)["type"] == "urn:gateway:error:rate-limited"
    assert orjson.loads(third.body)["limit"] == "client"
    assert rig.row(layout.ROW_RATE_LIMITED) == 1
    rig.advance(10.0)
    assert asks(rig, client).status == 200


def test_another_address_has_a_limit_of_its_own(rig: Rig) -> None:
    limited(rig, ONE)
    assert asks(rig, rig.connect("192.0.2.1")).status == 200
    assert asks(rig, rig.connect("192.0.2.1")).status == 429
    assert asks(rig, rig.connect("192.0.2.2")).status == 200


def test_a_request_that_one_limit_refuses_takes_nothing_of_another(rig: Rig) -> None:
    limited(rig, RateLimit(count=1, period=60.0, burst=2), RateLimit(count=1, period=1.0))
    client = rig.connect()
    assert asks(rig, client).status == 200
    refused = asks(rig, client)
    assert refused.status == 429
    assert refused.field(b"ratelimit") == b'"client-1";r=1;t=120, "client-2";r=0;t=1'
    rig.advance(1.0)
    assert asks(rig, client).status == 200
    rig.advance(1.0)
    assert asks(rig, client).status == 200


def test_a_limit_of_all_routes_is_met_on_each(rig: Rig) -> None:
    rig.serve(
        topology(
            number=2,
            services=[service()],
            routes=[Route(path="/", service="web"), Route(path="/a", service="web")],
            limits=Limits(rates=(ONE,)),
        )
    )
    client = rig.connect()
    assert asks(rig, client).status == 200
    client.get("/a")
    assert client.answer().status == 429


def test_a_common_limit_and_a_routes_have_different_names(rig: Rig) -> None:
    two = (RateLimit(count=9, period=1.0), RateLimit(count=5, period=1.0, name="mine"))
    limited(rig, ONE, common=two)
    answer = asks(rig, rig.connect())
    names = [part.partition(b";")[0] for part in answer.all(b"ratelimit")[0].split(b", ")]
    assert names == [b'"global-client-1"', b'"mine"', b'"client"']
    policies = answer.all(b"ratelimit-policy")[0].split(b", ")
    assert [part.partition(b";")[0] for part in policies] == names


def test_a_dry_run_only_counts(rig: Rig) -> None:
    limited(rig, RateLimit(count=1, period=60.0, dry_run=True))
    client = rig.connect()
    answers = [asks(rig, client) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 200]
    assert all(answer.field(b"ratelimit") is None for answer in answers)
    assert rig.row(layout.ROW_RATE_LIMITED_DRY) == 2
    assert rig.row(layout.ROW_RATE_LIMITED) == 0


def test_callers_of_the_platforms_own_are_exempt(rig: Rig) -> None:
    limited(rig, ONE, internal_callers=("10.0.0.0/8",))
    client = rig.connect("10.1.1.1")
    assert [asks(rig, client).status for _ in range(3)] == [200, 200, 200]


def test_without_a_subject_the_address_counts(rig: Rig) -> None:
    limited(rig, RateLimit(count=1, period=1.0, key=("subject", "client")))
    client = rig.connect()
    assert [asks(rig, client).status for _ in range(2)] == [200, 429]


def test_a_route_without_limits_has_no_guard(rig: Rig) -> None:
    limited(rig)
    found = rig.core.serving.router.lookup(b"a.example", b"/")
    assert found is not None
    assert found.guard is None  # type: ignore[attr-defined]
    answer = asks(rig, rig.connect())
    assert answer.field(b"ratelimit") is None


def test_the_limit_that_refuses_is_named(rig: Rig) -> None:
    limited(
        rig,
        RateLimit(count=1, period=1.0, name="quick"),
        RateLimit(count=1, period=60.0, burst=1, name="slow"),
        RateLimit(count=1, period=3600.0, name="trial", dry_run=True),
    )

    def refused() -> object:
        answer = asks(rig, rig.connect())
        return orjson.loads(answer.body)["limit"] if answer.status == 429 else None

    assert refused() is None
    assert refused() == "quick"
    rig.advance(1.0)
    assert refused() is None
    assert refused() == "slow", "both refuse, and this one for longer"
