"""The OpenAPI 3.1 document, made from the table of calls and nothing else."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway.admin import models
from gateway.admin.calls import CALLS, JSON, Call, Parameter
from gateway.admin.problems import PROBLEM_TYPE

_REFUSALS = {
    400: "The request is malformed",
    401: "No token, or nobody's",
    403: "The token's role does not reach",
    404: "There is no such service, slot or endpoint",
    408: "The body did not arrive in time",
    409: "Not now: `type` and `detail` say why",
    412: "Another traffic revision is in force",
    413: "The body is too large",
    415: "The body is not JSON",
    421: "The Host field names something else",
    422: "The body or a parameter is not as described; `field` says which",
    429: "Too many failed logins from this address; Retry-After says when",
    503: "Not available now; nothing was changed",
    504: "In force, but some workers did not acknowledge in time",
}

_REFERENCES = "#/components/schemas/{model}"


def document(version: str) -> dict[str, Any]:
    """Return the document as JSON values."""
    used: set[type[BaseModel]] = {models.Problem}
    used |= {call.answer for call in CALLS if not isinstance(call.answer, str)}
    used |= {call.body for call in CALLS if call.body is not None}
    ordered = sorted(used, key=lambda model: model.__name__)
    _, definitions = models_json_schema(
        [
            (model, "validation" if issubclass(model, models.Request) else "serialization")
            for model in ordered
        ],
        ref_template=_REFERENCES,
    )
    _close(definitions)
    paths: dict[str, dict[str, Any]] = {}
    for call in CALLS:
        paths.setdefault(call.path, {})[call.method.lower()] = _operation(call)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Gateway admin API",
            "version": version,
            "description": "Moves traffic between blue and green. Refusals are RFC 9457 problems "
            "with a stable `type`.",
        },
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(call: Call) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": call.name,
        "summary": call.summary,
        "description": f"Role: {call.role or 'none needed'}.",
        "parameters": [_parameter(each) for each in call.all_parameters],
        "responses": {str(call.done): _success(call)}
        | {str(status): _refusal(status) for status in call.statuses},
    }
    if call.role is not None:
        operation["security"] = [{"token": []}]
    if call.body is not None:
        operation["requestBody"] = {
            "required": not call.optional_body,
            "content": {JSON: {"schema": _reference(call.body.__name__)}},
        }
    return operation


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.where,
        "required": parameter.where == "path",
        "description": parameter.description,
        "schema": parameter.schema,
    }


def _success(call: Call) -> dict[str, Any]:
    answer = call.answer
    if not isinstance(answer, str):
        content: dict[str, Any] = {JSON: {"schema": _reference(answer.__name__)}}
    elif answer == JSON:
        content = {JSON: {"schema": {"type": "object"}}}
    else:
        content = {answer: {"schema": {"type": "string"}}}
    success: dict[str, Any] = {"description": call.summary, "content": content}
    if call.etag:
        success["headers"] = {
            "ETag": {
                "description": "The traffic revision",
                "required": True,
                "schema": {"type": "string"},
            }
        }
    return success


def _refusal(status: int) -> dict[str, Any]:
    refusal: dict[str, Any] = {
        "description": _REFUSALS[status],
        "content": {PROBLEM_TYPE: {"schema": _reference("Problem")}},
    }
    if status == 401:
        refusal["headers"] = {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}}
    return refusal


def _reference(model: str) -> dict[str, str]:
    return {"$ref": _REFERENCES.format(model=model)}


def _close(schema: Any) -> None:
    """Say of objects whose keys follow a pattern that there are no others, as is enforced."""
    if isinstance(schema, dict):
        if "patternProperties" in schema:
            schema.setdefault("additionalProperties", False)
        for each in schema.values():
            _close(each)
    elif isinstance(schema, list):
        for each in schema:
            _close(each)
