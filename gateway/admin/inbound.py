"""Reading a request as its call describes it: bounded, strict, with the fault's field named."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import orjson
from aiohttp import web
from pydantic import ValidationError

from gateway.admin.models import ProblemItem, Request
from gateway.admin.problems import ProblemError

if TYPE_CHECKING:
    from gateway.admin.auth import Identity
    from gateway.admin.calls import Call, Parameter

MAX_BODY: Final = 1024 * 1024

_ETAG = re.compile(r'"([0-9]{1,15})"')
_WHOLE = re.compile(r"([0-9]{1,16})(?:\.0{1,16})?", re.ASCII)
_KEY = re.compile(r"[!-~]{1,255}")

R = TypeVar("R", bound=Request)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbound:
    """One request, read. ``revisions`` is the If-Match (None: any revision will do)."""

    call: Call
    identity: Identity | None
    address: str
    path: dict[str, str]
    query: dict[str, str]
    raw: bytes
    body: Request | None
    revisions: frozenset[int] | None
    key: str | None

    def given(self, kind: type[R]) -> R:
        """Return the body as the model that the call has."""
        if not isinstance(self.body, kind):
            raise TypeError(f"{self.call.name} takes {kind.__name__}")
        return self.body


async def read(request: web.Request, call: Call, identity: Identity | None) -> Inbound:
    """Read a request. Raises ProblemError: 400, 413, 415 or 422."""
    raw = await _raw(request, call)
    guarded = call.guarded
    return Inbound(
        call=call,
        identity=identity,
        address=request.remote or "unix",
        path=dict(request.match_info),
        query=_query(request, call),
        raw=raw,
        body=_body(call, raw),
        revisions=_revisions(request.headers.get("If-Match")) if guarded else None,
        key=_key(request.headers.get("Idempotency-Key")) if guarded else None,
    )


async def _raw(request: web.Request, call: Call) -> bytes:
    try:
        raw = await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        detail = f"a body has at most {MAX_BODY} octets"
        raise ProblemError(413, "body-too-large", detail) from error
    if raw and call.body is not None and request.content_type != "application/json":
        raise ProblemError(
            415,
            "not-json",
            f"the body is {request.content_type}, expected application/json",
            headers={"Accept": "application/json"},
        )
    if raw and (coding := request.headers.get("Content-Encoding", "identity")) != "identity":
        # RFC 9110 section 15.5.16: the answer says what would have been taken.
        raise ProblemError(
            415,
            "compressed",
            f"the body is {coding}, expected one that is not compressed",
            headers={"Accept-Encoding": "identity"},
        )
    return raw


def _body(call: Call, raw: bytes) -> Request | None:
    if call.body is None:
        return None
    if not raw and call.optional_body:
        return call.body()
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ProblemError(400, "malformed-json", f"the body is not JSON: {error}") from error
    try:
        return call.body.model_validate(value)
    except ValidationError as error:
        raise invalid(error) from error


def invalid(error: ValidationError) -> ProblemError:
    """Return the problem of a body that is not as described, with every fault."""
    items = []
    for each in error.errors(include_url=False, include_input=False):
        field = ".".join(str(step) for step in each["loc"])
        items.append(ProblemItem(field=field, detail=each["msg"]))
    said = "; ".join(
        f"{item.field}: {item.detail}" if item.field else item.detail for item in items
    )
    return ProblemError(422, "invalid-body", said, field=items[0].field or None, errors=items)


def _query(request: web.Request, call: Call) -> dict[str, str]:
    known = {each.name: each for each in call.parameters if each.where == "query"}
    found: dict[str, str] = {}
    for name, value in request.query.items():
        if name not in known or name in found:
            what = "is given twice" if name in found else "is not a parameter of this call"
            raise ProblemError(422, "invalid-parameter", f"{name} {what}", field=name)
        found[name] = _checked(known[name], value)
    return found


def _checked(parameter: Parameter, value: str) -> str:
    """Hold a query parameter to its schema: enumerations, integers and lengths.

    ``3.0`` is 3, as in a body: JSON Schema knows numbers, not how they are written.
    """
    schema: dict[str, Any] = parameter.schema
    detail = ""
    if schema["type"] == "integer":
        whole = _WHOLE.fullmatch(value)
        number = int(whole[1]) if whole else 0
        value = str(number)
        if not schema["minimum"] <= number <= schema["maximum"]:
            detail = f"expected an integer, {schema['minimum']} to {schema['maximum']}"
    elif "enum" in schema and value not in schema["enum"]:
        detail = "expected one of " + ", ".join(schema["enum"])
    elif len(value) > schema.get("maxLength", len(value)):
        detail = f"expected at most {schema['maxLength']} characters"
    if detail:
        field = parameter.name
        raise ProblemError(422, "invalid-parameter", f"{field}: {detail}", field=field)
    return value


def _revisions(field: str | None) -> frozenset[int] | None:
    """Return the revisions of an If-Match (RFC 9110 section 13.1.1), None for any."""
    if field is None or field.strip() == "*":
        return None
    found = set()
    for part in field.split(","):
        match = _ETAG.fullmatch(part.strip())
        if match is None:
            raise ProblemError(
                400,
                "malformed-if-match",
                'If-Match: expected ETags of this API such as "17", or *',
                field="If-Match",
            )
        found.add(int(match[1]))
    return frozenset(found)


def _key(field: str | None) -> str | None:
    if field is None:
        return None
    if _KEY.fullmatch(field) is None:
        raise ProblemError(
            400,
            "malformed-idempotency-key",
            "Idempotency-Key: expected 1 to 255 visible ASCII characters",
            field="Idempotency-Key",
        )
    return field
