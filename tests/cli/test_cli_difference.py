"""Audit rows in words."""

from __future__ import annotations

import pytest
from pydantic import JsonValue

from gateway.cli.difference import difference


def state(revision: int, **weights: float) -> JsonValue:
    return {
        "revision": revision,
        "services": {name: {"weight": weight, "closed": []} for name, weight in weights.items()},
    }


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (state(1, a=0.0, b=0.0), state(2, a=20.0, b=20.0), "a, b: weight 0 → 20"),
        (state(1, a=0.0, b=5.0), state(2, a=0.05, b=5.0), "a: weight 0 → 0.05"),
        (state(1, a=1.0), state(1, a=1.0), ""),
        (None, {"salt": "x"}, "salt x"),
        ({"salt": "x"}, None, "salt x → gone"),
        ({"urls": ["u"]}, {"urls": ["v", "w"]}, 'urls ["u"] → ["v", "w"]'),
        (None, None, ""),
        (
            state(1),
            {"revision": 2, "services": {}, "changes": ["auth: changed", "x"]},
            "auth: changed; x",
        ),
        ("a", "b", "a → b"),
        ({"services": {"a": {}}}, {"services": {}}, "a: {} → gone; services {}"),
    ],
)
def test_differences(before: JsonValue, after: JsonValue, said: str) -> None:
    assert difference(before, after) == said
