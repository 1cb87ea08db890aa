"""Keys that may be written in two ways mean the same in both, to the check and to an editor."""

from __future__ import annotations

from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it has no types of its own
import pytest

from gateway.config import yaml12
from gateway.config.editor import json_schema
from gateway.config.load import ConfigErrors, parse_text
from gateway.config.schema import Config

BASE = "services: {web: {blue: {endpoints: ['http://127.0.0.1:1']}}}\n"
LISTEN = "listen: [{{address: '0.0.0.0:443', tls: {{certificates: [{pair}], min_version: {}}}}}]"
PAIR = "{certificate: a, key: b}"
LIMIT = "limits: {{rate: {{rate: 1/s, key: {}}}}}"
AUTH = "auth: {{a: {{jwt: {{issuer: i, jwks_file: f, audience: {}}}}}}}"


def config_of(text: str) -> Config:
    return parse_text((BASE + text).encode(), "f", {}, read_secrets=False).config


def as_json(value: object) -> Any:
    if isinstance(value, dict):
        return {name: as_json(inner) for name, inner in value.items()}
    return [as_json(inner) for inner in value] if isinstance(value, tuple) else value


@pytest.mark.parametrize(
    ("form", "one", "other"),
    [
        (LISTEN, "1.2", '"1.2"'),
        (LISTEN, "1.3", '"1.3"'),
        (LIMIT, "client", "[client]"),
        (LIMIT, "identity", "[identity]"),
        (AUTH, "shop", "[shop]"),
    ],
)
def test_both_forms_are_the_same(form: str, one: str, other: str) -> None:
    texts = [form.format(value, pair=PAIR) for value in (one, other)]
    assert config_of(texts[0]) == config_of(texts[1])
    for text in texts:
        jsonschema.validate(as_json(yaml12.parse((BASE + text).encode()).data), json_schema())


@pytest.mark.parametrize(
    ("form", "value", "told"),
    [
        (LISTEN, "1.1", "expected 1.2 or 1.3"),
        (LISTEN, "13", "expected 1.2 or 1.3"),
        (LISTEN, "true", "expected 1.2 or 1.3"),
        (LIMIT, "clients", "expected subject, client or identity"),
        (LIMIT, "[]", "is empty"),
        (LIMIT, "{}", "expected a list"),
        (AUTH, "1", "expected a list"),
        (AUTH, "[]", "is empty"),
    ],
)
def test_other_forms_are_refused(form: str, value: str, told: str) -> None:
    text = form.format(value, pair=PAIR)
    with pytest.raises(ConfigErrors, match=told):
        config_of(text)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(as_json(yaml12.parse((BASE + text).encode()).data), json_schema())
