"""The scalar types of the configuration's keys: how each is parsed and how an editor sees it.

A type is the Python type that the rest of the program works with (seconds, octets, shares), the
parser that makes it from what stands in the file, and the JSON Schema of the latter.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    Strict,
    WithJsonSchema,
)

from gateway.config.addresses import (
    EndpointAddress,
    SocketAddress,
    parse_admin_address,
    parse_endpoint,
    parse_host,
    parse_listen,
    parse_network,
    parse_origin,
    parse_path,
    parse_path_pattern,
    parse_route_host,
    parse_route_path,
)
from gateway.config.scalars import (
    DURATION_PATTERN,
    PERCENTAGE_PATTERN,
    RATE_PATTERN,
    SIZE_PATTERN,
    Rate,
    format_duration,
    format_size,
    parse_duration,
    parse_percentage,
    parse_rate,
    parse_size,
    parse_weight,
    shown,
)

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

#: Begins the tags of unions: a character that no YAML file can have in a key.
TAG = "\0"

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.1: token
_FIELD_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")  # RFC 9110, 5.5, no tabs
_MEDIA_TYPE = re.compile(  # RFC 9110 section 8.3.1
    r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+"
    r"(?: ?; ?[!#$%&'*+.^_`|~0-9A-Za-z-]+=[!#$%&'*+.^_`|~0-9A-Za-z-]+)*"
)
_METHOD = re.compile(r"[A-Z][A-Z-]{0,31}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SERVICE = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?")
_STATUS_CLASS = re.compile(r"[45]xx")
_FAILURES = ("connect", "reset", "timeout")
#: What frames an answer, ends at a hop (RFC 9110 section 7.6.1) or is the gateway's own to say.
_NOT_SET_BY_FILES = frozenset(
    {
        "age",
        "connection",
        "content-length",
        "content-type",
        "date",
        "expires",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "surrogate-control",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-gateway-error",
        "x-gateway-served-by",
        "x-request-id",
    }
)
#: Statuses whose answers have no content, or one that a file cannot be (RFC 9110 section 15).
_WITHOUT_FILE = frozenset({204, 205, 206, 304})
_MAX_WORKERS = 256


class Section(BaseModel):
    """Base of every part of the configuration: frozen, and without keys that it does not know."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True
    )


def key(default: Any, description: str, **constraints: Any) -> Any:
    """Return a key's field. ``default`` is written as the file would have it, and parsed alike.

    Typed as Any because of that: the attribute's type is what the parser makes.
    """
    return Field(default, description=description, **constraints)


def one_or_many(value: object) -> object:
    """Return a list where one name stands in its place; the types judge what is in it."""
    return (value,) if isinstance(value, str) else value


def names_schema(names: dict[str, Any], most: int | None = None) -> WithJsonSchema:
    """Return the JSON Schema of one name, or of a list of at least one and ``most`` at most."""
    several: dict[str, Any] = {"type": "array", "items": names, "minItems": 1}
    if most is not None:
        several["maxItems"] = most
    return WithJsonSchema({"anyOf": [names, several]})


def _text(parse: Callable[[str], T]) -> Callable[[Any], T]:
    """Return a parser of scalars that takes text only."""

    def checked(value: object) -> T:
        if not isinstance(value, str):
            raise ValueError(f"found {shown(value)}, expected text")  # noqa: TRY004 - pydantic
        return parse(value)

    return checked


def _from(minimum: float, parse: Callable[[Any], float]) -> Callable[[Any], float]:
    """Return a parser of durations that refuses less than ``minimum`` seconds."""

    def checked(value: object) -> float:
        seconds = parse(value)
        if seconds < minimum:
            raise ValueError(
                f"{shown(value)} is too short, expected at least {format_duration(minimum)}"
            )
        return seconds

    return checked


def _size_from(minimum: int, maximum: int) -> Callable[[Any], int]:
    """Return a parser of sizes within bounds, in octets."""

    def checked(value: object) -> int:
        octets = parse_size(value)
        if not minimum <= octets <= maximum:
            raise ValueError(
                f"{shown(value)} is out of range, "
                f"expected {format_size(minimum)} to {format_size(maximum)}"
            )
        return octets

    return checked


def _version_of_tls(value: object) -> object:
    # Without quotes it is a number to YAML, and these two cannot be mistaken for others.
    return str(value) if isinstance(value, float) else value


def _token(value: str) -> str:
    if _HEADER_NAME.fullmatch(value) is None:
        raise ValueError(f"{shown(value)} is not a name that HTTP allows, expected such as X-User")
    return value


def _field_value(value: str) -> str:
    if _FIELD_VALUE.fullmatch(value) is None:
        raise ValueError(
            "characters that a header field cannot have, expected one line of visible ASCII"
        )
    return value


def _answer_field(value: str) -> str:
    name = _token(value).lower()
    # Targeted ones too (RFC 9213): nobody may keep a degraded answer.
    if name in _NOT_SET_BY_FILES or name.endswith("cache-control"):
        raise ValueError(
            f"{shown(value)} is for the gateway to set, expected a field of the answer's own"
        )
    return value


def _file_status(value: object) -> int:
    if (
        isinstance(value, int)
        and not isinstance(value, bool)
        and 200 <= value <= 599
        and value not in _WITHOUT_FILE
    ):
        return value
    raise ValueError(
        f"{shown(value)} is no status for a file, expected 200 to 599 without 204, 205, 206 and 304"
    )


def _error_status(value: object) -> str:
    if isinstance(value, str) and _STATUS_CLASS.fullmatch(value):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599:
        return str(value)
    raise ValueError(
        f"{shown(value)} is no error's status, expected one such as 404, or 4xx or 5xx"
    )


def _media_type(value: str) -> str:
    if _MEDIA_TYPE.fullmatch(value) is None:
        raise ValueError(
            f"{shown(value)} is not a content type, expected such as text/html; charset=utf-8"
        )
    return value


def _method(value: str) -> str:
    if _METHOD.fullmatch(value) is None:
        raise ValueError(f"{shown(value)} is not a method, expected upper case such as GET")
    return value


def _variable(value: str) -> str:
    # Not quoted: what stands here by mistake is likely the secret itself.
    if _VARIABLE.fullmatch(value) is None:
        raise ValueError(
            "not the name of an environment variable, expected letters, digits and underscores "
            "(the secret itself never stands in the file)"
        )
    return value


def _file(value: str) -> str:
    if not value or "\0" in value:
        raise ValueError("not the path of a file, expected such as tls/site.pem")
    return value


def _service_name(value: str) -> str:
    if _SERVICE.fullmatch(value) is None:
        raise ValueError(
            f"{shown(value)} is not a service's name, expected up to 63 lower-case letters, "
            "digits, hyphens and underscores"
        )
    return value


def _redis_url(value: str) -> str:
    if not value.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("not a URL of Redis, expected redis://host:6379/0 or rediss://…")
    if "@" in value or "password=" in value:
        raise ValueError("credentials may not stand in the file, expected redis://host:6379/0")
    return value


def _condition(value: object) -> str:
    expected = "connect, reset, timeout, a status such as 502, or 5xx"
    if isinstance(value, str) and (value in _FAILURES or _STATUS_CLASS.fullmatch(value)):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599:
        return str(value)
    raise ValueError(f"{shown(value)} is not a failure, expected {expected}")


def _workers(value: object) -> int | None:
    if value == "auto":
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MAX_WORKERS:
        return value
    raise ValueError(
        f"{shown(value)} is not a number of workers, expected auto or 1 to {_MAX_WORKERS}"
    )


def _log(value: str) -> str:
    if not value or "\0" in value:
        raise ValueError("not a place for the log, expected - (standard output), off, or a path")
    return value


def _json(title: str, pattern: str = "", *examples: str) -> WithJsonSchema:
    """Return the JSON Schema of a scalar that is written as text; ``title`` is the type's name."""
    schema: dict[str, Any] = {"type": "string", "title": title}
    if pattern:
        schema["pattern"] = pattern
    if examples:
        schema["examples"] = list(examples)
    return WithJsonSchema(schema)


#: Dumps as the file has it, for what is no plain number or text.
_AS_WRITTEN = PlainSerializer(str, return_type=str)

_DURATION = _json("duration", DURATION_PATTERN, "500ms", "5s", "2m", "24h", "30d")
_SIZE = _json("size", SIZE_PATTERN, "64KiB", "10MiB")

#: Seconds, nothing included.
Duration = Annotated[float, PlainValidator(parse_duration), _DURATION]
#: Seconds, at least one.
Seconds = Annotated[float, PlainValidator(_from(1.0, parse_duration)), _DURATION]
#: Seconds, at least 0.1: the timers' wheel is no finer.
Timeout = Annotated[float, PlainValidator(_from(0.1, parse_duration)), _DURATION]
#: Octets.
Size = Annotated[int, PlainValidator(parse_size), _SIZE]
#: Octets of a request's head: one buffer holds it whole.
HeadSize = Annotated[int, PlainValidator(_size_from(1024, 1024**2)), _SIZE]
#: Octets that each connection may hold in the gateway's memory.
AwaitedSize = Annotated[int, PlainValidator(_size_from(0, 1024**2)), _SIZE]
#: Octets of a store: less holds next to nothing, more is no memory's that is mapped.
StoreSize = Annotated[int, PlainValidator(_size_from(1024**2, 1024**4)), _SIZE]
RequestRate = Annotated[
    Rate, PlainValidator(parse_rate), _AS_WRITTEN, _json("rate", RATE_PATTERN, "60/min", "100/s")
]
#: A share from 0.0 to 1.0, written as a percentage.
Share = Annotated[
    float, PlainValidator(parse_percentage), _json("percentage", PERCENTAGE_PATTERN, "20%")
]
#: Buckets from 0 to 10,000, written as a number of percent.
Weight = Annotated[
    int,
    PlainValidator(parse_weight),
    WithJsonSchema({"type": "number", "title": "percent", "minimum": 0, "maximum": 100}),
]

Flag = Annotated[bool, Strict()]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Count = Annotated[int, Strict(), Field(ge=0, le=1_000_000_000)]
Positive = Annotated[int, Strict(), Field(ge=1, le=1_000_000_000)]
Status = Annotated[int, Strict(), Field(ge=100, le=599)]
Port = Annotated[int, Strict(), Field(ge=1, le=65_535)]

#: Text, though a file may have the number.
TlsVersion = Annotated[
    Literal["1.2", "1.3"],
    BeforeValidator(_version_of_tls),
    WithJsonSchema({"enum": ["1.2", "1.3", 1.2, 1.3], "title": "`1.2` or `1.3`"}),
]

Workers = Annotated[
    int | None,
    PlainValidator(_workers),
    WithJsonSchema(
        {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": _MAX_WORKERS}]}
    ),
]
Condition = Annotated[
    str,
    PlainValidator(_condition),
    WithJsonSchema(
        {
            "title": "failure",
            "anyOf": [
                {"enum": [*_FAILURES, "4xx", "5xx"]},
                {"type": "integer", "minimum": 400, "maximum": 599},
            ],
        }
    ),
]

#: Status of an answer that is made of a file.
FileStatus = Annotated[
    int,
    PlainValidator(_file_status),
    WithJsonSchema({"type": "integer", "minimum": 200, "maximum": 599, "title": "status"}),
]
ErrorStatus = Annotated[
    str,
    PlainValidator(_error_status),
    WithJsonSchema(
        {
            "title": "error status",
            "anyOf": [
                {"enum": ["4xx", "5xx"]},
                {"type": "integer", "minimum": 400, "maximum": 599},
            ],
        }
    ),
]

HttpToken = Annotated[str, PlainValidator(_text(_token)), _json("field name")]
#: A field that a configured answer may have of its own.
AnswerField = Annotated[str, PlainValidator(_text(_answer_field)), _json("field name")]
MediaType = Annotated[
    str, PlainValidator(_text(_media_type)), _json("content type", "/", "text/html; charset=utf-8")
]
FieldValue = Annotated[str, PlainValidator(_text(_field_value)), _json("field value")]
Method = Annotated[str, PlainValidator(_text(_method)), _json("method", "^[A-Z][A-Z-]*$", "GET")]
CorsOrigin = Annotated[
    str, PlainValidator(_text(parse_origin)), _json("origin", "", "https://*.example.org")
]
Variable = Annotated[
    str, PlainValidator(_text(_variable)), _json("variable", "^[A-Za-z_][A-Za-z0-9_]*$")
]
FilePath = Annotated[str, PlainValidator(_text(_file)), _json("file")]
LogPlace = Annotated[str, PlainValidator(_text(_log)), _json("file, - or off")]
RedisUrl = Annotated[str, PlainValidator(_text(_redis_url)), _json("URL", "^(rediss?|unix)://")]
ServiceName = Annotated[
    str,
    PlainValidator(_text(_service_name)),
    _json("service", "^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$", "ivor"),
]
Host = Annotated[str, PlainValidator(_text(parse_host)), _json("host")]
RouteHost = Annotated[str, PlainValidator(_text(parse_route_host)), _json("host")]
RoutePath = Annotated[
    str, PlainValidator(_text(parse_route_path)), _json("path", "^/", "/api/ivor/")
]
#: The path of a request that the gateway makes.
ProbePath = Annotated[str, PlainValidator(_text(parse_path)), _json("path", "^/", "/api/ivor/")]
PathPattern = Annotated[
    str, PlainValidator(_text(parse_path_pattern)), _json("path pattern", "^/", "/assets/*")
]
Network = Annotated[
    str, PlainValidator(_text(parse_network)), _json("network", "^[0-9A-Fa-f.:/]+$", "10.0.0.0/8")
]
Endpoint = Annotated[
    EndpointAddress,
    PlainValidator(_text(parse_endpoint)),
    _AS_WRITTEN,
    _json("endpoint", "^[Hh][Tt][Tt][Pp][Ss]?://", "http://127.0.0.1:3101"),
]
ListenAddress = Annotated[
    SocketAddress,
    PlainValidator(_text(parse_listen)),
    _AS_WRITTEN,
    _json("address", ":[0-9]+$", "0.0.0.0:8080"),
]
AdminAddress = Annotated[
    SocketAddress,
    PlainValidator(_text(parse_admin_address)),
    _AS_WRITTEN,
    _json("address", "^unix:.+|:[0-9]+$", "127.0.0.1:9090", "unix:/run/gateway/admin.sock"),
]
