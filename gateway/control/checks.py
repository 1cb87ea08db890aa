"""From a service's ``health`` section to what the prober asks and expects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.config.schema.health import JsonTest
from gateway.health.answers import Expected, JsonRule, Request
from gateway.health.policy import BusinessCheck, HealthPolicy, HttpCheck, IntegrationCheck, Pace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.config.schema.health import (
        HttpProbe,
        IntegrationRequest,
        JsonScalar,
        SelfTestProbe,
        TcpProbe,
    )
    from gateway.config.schema.services import Service


def health_policy(section: Service) -> HealthPolicy:
    """Return how a service's endpoints are probed."""
    health = section.health
    l2, l3, l4 = health.L2, health.L3, health.L4
    return HealthPolicy(
        interval=health.interval,
        interval_down=health.interval_down,
        timeout=health.timeout,
        rise=health.rise,
        fall=health.fall,
        tcp=health.L1.tcp,
        tcp_pace=_pace(health.L1),
        http=HttpCheck(path=l2.path, status=l2.status, pace=_pace(l2)) if l2 is not None else None,
        business=(BusinessCheck(request=_request(l3), pace=_pace(l3)) if l3 is not None else None),
        integration=IntegrationCheck(
            requests=tuple(_request(each, tuple(each.capture.items())) for each in l4.requests),
            interval=l4.interval,
            timeout=l4.timeout,
        )
        if l4 is not None
        else None,
        tls_ca=section.tls.ca,
        depends_on=section.depends_on,
    )


def _pace(probe: TcpProbe | HttpProbe | SelfTestProbe) -> Pace:
    return Pace(interval=probe.interval, timeout=probe.timeout)


def _request(
    section: SelfTestProbe | IntegrationRequest, capture: tuple[tuple[str, str], ...] = ()
) -> Request:
    return Request(
        method=section.method,
        path=section.path,
        fields=tuple(section.fields.items()),
        body=section.body,
        expected=Expected(
            status=section.status,
            fields=tuple(section.answer_fields.items()),
            json=tuple(
                rule for path, wanted in section.json_.items() for rule in _rules(path, wanted)
            ),
        ),
        capture=capture,
    )


def _rules(path: str, wanted: JsonScalar | JsonTest) -> Iterator[JsonRule]:
    if not isinstance(wanted, JsonTest):
        yield JsonRule(path, "equal", wanted)
        return
    if wanted.present is not None:
        yield JsonRule(path, "present", wanted.present)
    if "not_" in wanted.model_fields_set:
        yield JsonRule(path, "not", wanted.not_)
    if wanted.above is not None:
        yield JsonRule(path, "above", wanted.above)
    if wanted.below is not None:
        yield JsonRule(path, "below", wanted.below)
