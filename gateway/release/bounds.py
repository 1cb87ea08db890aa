"""The bounds that a service's rules have, from the configuration. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from gateway.config.schema.releases import ServiceTriggers, Triggers


class ServiceRules(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of one service: shares from 0 to 1, times in seconds."""

    error_above: float
    error_for: float
    latency_above: float
    latency_quantile: float
    latency_for: float
    unhealthy_for: float

    @property
    def slow_above(self) -> float:
        """The share of slow requests at which the quantile is as slow."""
        return round(1.0 - self.latency_quantile, 12)  # 1 - 0.9 is a little less than a tenth


def merged(general: Triggers, own: ServiceTriggers) -> Triggers:
    """Return the triggers of a service: ``general`` but for the single keys that its own part sets.

    ``latency: {above: 8s}`` keeps the quantile and the time of ``releases.triggers``.
    """
    sections: dict[str, Any] = {}
    for name in own.model_fields_set:
        section = getattr(own, name)
        if section is not None:
            keys = {each: getattr(section, each) for each in section.model_fields_set}
            base = getattr(general, name)
            sections[name] = section if base is None else base.model_copy(update=keys)
    return general.model_copy(update=sections)


def effective(general: Triggers, own: ServiceTriggers) -> ServiceRules:
    """Return the rules of a service from ``releases.triggers`` and ``services.*.triggers``."""
    triggers = merged(general, own)
    return ServiceRules(
        error_above=triggers.error_rate.above,
        error_for=triggers.error_rate.for_,
        latency_above=triggers.latency.above,
        latency_quantile=triggers.latency.quantile,
        latency_for=triggers.latency.for_,
        unhealthy_for=triggers.unhealthy.for_,
    )
