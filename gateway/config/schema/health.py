"""Health: the four levels of probes, and what each asks and expects."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Discriminator, Field, PlainValidator, Tag, WithJsonSchema

from gateway.config.addresses import parse_path
from gateway.config.placeholders import NAME, filled, names_in
from gateway.config.scalars import shown
from gateway.config.schema.types import (
    TAG,
    FieldValue,
    Flag,
    HttpToken,
    Method,
    Number,
    Positive,
    ProbePath,
    Section,
    Status,
    Timeout,
    key,
)

JsonScalar = str | int | float | bool | None

_STATUS_CLASS = re.compile(r"[1-5]xx")
_QUERY = re.compile(r"[!-\"$-~]*")
_SCALAR, _TEST = f"{TAG}scalar", f"{TAG}test"

#: Octets of a request's body.
MAX_BODY = 64 * 1024
#: Requests of one integration check.
MAX_REQUESTS = 32
_EXPECTED = "a status such as 200, a class such as 2xx, or a list of these"


def _one_status(value: object) -> str:
    if isinstance(value, str) and _STATUS_CLASS.fullmatch(value):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599:
        return str(value)
    raise ValueError(f"{shown(value)} is not a status, expected {_EXPECTED}")


def _statuses(value: object) -> tuple[str, ...]:
    if isinstance(value, (tuple, list)):
        if not value:
            raise ValueError(f"is empty, expected {_EXPECTED}")
        return tuple(_one_status(each) for each in value)
    return (_one_status(value),)


def parse_target(value: object) -> str:
    """Return a request's path and query. Raises ValueError where no request could have it.

    ``{name}`` may stand anywhere in it; which names there are is not looked at here.
    """
    if not isinstance(value, str):
        raise ValueError(f"found {shown(value)}, expected text")  # noqa: TRY004 - pydantic
    whole = filled(value, dict.fromkeys(names_in(value), "x"))
    path, mark, query = whole.partition("?")
    parse_path(path)
    if mark and _QUERY.fullmatch(query) is None:
        raise ValueError(
            f"{shown(value)} has characters that a query cannot have, expected them percent-encoded"
        )
    return value


def _body(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"found {shown(value)}, expected text (JSON in quotes)")  # noqa: TRY004
    if len(value.encode()) > MAX_BODY:
        raise ValueError(f"is longer than {MAX_BODY} octets")
    return value


def _json_path(value: object) -> str:
    if not isinstance(value, str) or not value or len(value) > 256:
        raise ValueError(
            f"{shown(value)} is not the place of a value, expected such as items.0.name, "
            "or /items/0/name"
        )
    return value


def _scalar(value: object) -> JsonScalar:
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise ValueError(f"found {shown(value)}, expected a value, or keys such as present and above")


def _capture_name(value: object) -> str:
    if not isinstance(value, str) or NAME.fullmatch(value) is None:
        raise ValueError(f"{shown(value)} is not a name, expected letters, digits and underscores")
    return value


_STATUS_SCHEMA = {
    "title": "status, class or list",
    "anyOf": [
        {"type": "integer", "minimum": 100, "maximum": 599},
        {"type": "string", "pattern": "^[1-5]xx$"},
        {"type": "array", "minItems": 1, "items": {"type": ["integer", "string"]}},
    ],
}

Statuses = Annotated[tuple[str, ...], PlainValidator(_statuses), WithJsonSchema(_STATUS_SCHEMA)]
Target = Annotated[
    str,
    PlainValidator(parse_target),
    WithJsonSchema({"type": "string", "title": "path and query", "pattern": "^/"}),
]
Body = Annotated[str, PlainValidator(_body), WithJsonSchema({"type": "string", "title": "text"})]
JsonPath = Annotated[
    str, PlainValidator(_json_path), WithJsonSchema({"type": "string", "title": "place in JSON"})
]
JsonValue = Annotated[
    JsonScalar,
    PlainValidator(_scalar),
    WithJsonSchema({"title": "value", "type": ["string", "number", "boolean", "null"]}),
]
CaptureName = Annotated[
    str, PlainValidator(_capture_name), WithJsonSchema({"type": "string", "title": "name"})
]


class TcpProbe(Section):
    """L1: a connection is accepted."""

    tcp: Flag = key(default=True, description="Connect and close; false leaves this level out.")
    interval: Timeout | None = key(None, description="This level's own; null: health's.")
    timeout: Timeout | None = key(None, description="This level's own; null: health's.")


class HttpProbe(Section):
    """L2: the application answers."""

    path: ProbePath = Field(description="Path that is asked with GET.")
    status: Status = key(200, description="Status that means healthy.")
    interval: Timeout | None = key(None, description="This level's own; null: health's.")
    timeout: Timeout | None = key(None, description="This level's own; null: health's.")


class JsonTest(Section):
    """What a value in a JSON answer must be, where it is not simply given. All of it holds."""

    present: Flag | None = key(None, description="Whether it is there at all.")
    not_: JsonValue = key(None, alias="not", description="It is there and is not this.")
    above: Number | None = key(None, description="It is a number above this.")
    below: Number | None = key(None, description="It is a number below this.")


def scalar_or_test(value: object) -> str:
    """Tell which of the two forms a JSON value's expectation has."""
    return _TEST if isinstance(value, (dict, JsonTest)) else _SCALAR


JsonExpectation = Annotated[
    Annotated[JsonValue, Tag(_SCALAR)] | Annotated[JsonTest, Tag(_TEST)],
    Discriminator(scalar_or_test),
]


class SelfTestProbe(Section):
    """L3: the application says that it can do its work."""

    method: Method = key("GET", description="Method of the request.")
    path: Target = Field(description="Path that is asked, with a query where it needs one.")
    fields: dict[HttpToken, FieldValue] = key({}, description="Fields of the request.")
    body: Body | None = key(None, description="Body of the request, as text.")
    status: Statuses = key(200, description="Status that means healthy: one, a class, several.")
    answer_fields: dict[HttpToken, FieldValue] = key(
        {}, description="Fields that the answer must have; a final * stands for anything."
    )
    json_: dict[JsonPath, JsonExpectation] = key(
        {}, alias="json", description="Values that the JSON answer must hold, by their places."
    )
    interval: Timeout | None = key(None, description="This level's own; null: health's.")
    timeout: Timeout | None = key(None, description="This level's own; null: health's.")


class IntegrationRequest(Section):
    """One request of the integration check."""

    method: Method = key("GET", description="Method of the request.")
    path: Target = Field(
        description="Path that is asked, through the gateway; {name} is a captured value."
    )
    fields: dict[HttpToken, FieldValue] = key(
        {}, description="Fields of the request; Host where routes look at it."
    )
    body: Body | None = key(None, description="Body of the request, as text.")
    status: Statuses = key(200, description="Status that is expected: one, a class, several.")
    answer_fields: dict[HttpToken, FieldValue] = key(
        {}, description="Fields that the answer must have; a final * stands for anything."
    )
    json_: dict[JsonPath, JsonExpectation] = key(
        {}, alias="json", description="Values that the JSON answer must hold, by their places."
    )
    capture: dict[CaptureName, JsonPath] = key(
        {},
        description="Values for later requests: a place in the JSON answer, or field:Name.",
    )


class IntegrationProbe(Section):
    """L4: the service works together with those that it depends on. Asked once for a pool."""

    requests: tuple[IntegrationRequest, ...] = Field(
        min_length=1,
        max_length=MAX_REQUESTS,
        description="Requests in their order, with the color forced.",
    )
    interval: Timeout = key("30s", description="Time between two runs for a pool that is up.")
    timeout: Timeout = key("10s", description="Time for the whole sequence.")


class Health(Section):
    """Probes, from shallow to deep. A level runs only while the one below holds."""

    interval: Timeout = key("5s", description="Time between probes of an endpoint.")
    interval_down: Timeout = key("1s", description="The same, for all levels, while it is down.")
    timeout: Timeout = key("3s", description="Time for one probe.")
    rise: Positive = key(2, description="Passes in a row that make an endpoint healthy.")
    fall: Positive = key(3, description="Failures in a row that make it unhealthy.")
    L1: TcpProbe = key({}, description="The port accepts connections.")
    L2: HttpProbe | None = key(None, description="The application answers.")
    L3: SelfTestProbe | None = key(None, description="The application's own self-test.")
    L4: IntegrationProbe | None = key(None, description="A sequence of requests through all.")
