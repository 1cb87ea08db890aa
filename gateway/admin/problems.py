"""Every refusal as RFC 9457 ``application/problem+json``, with a stable ``type``."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, TypedDict

import orjson
from aiohttp import web

from gateway.admin.models import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Unpack

    from pydantic import BaseModel

    from gateway.admin.models import EndpointEvidence, ProblemItem, RefusedService

PROBLEM_TYPE = "application/problem+json"
JSON_TYPE = "application/json"
URN = "urn:gateway:"


class ProblemError(Exception):
    """Ends a request with a problem. ``kind`` follows the URN; ``members`` are ``Problem``'s."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        **members: Unpack[Members],
    ) -> None:
        super().__init__(detail)
        self.headers = dict(headers or {})
        self.problem = Problem(
            type=URN + kind,
            title=kind.replace("-", " ").capitalize(),
            status=status,
            detail=detail,
            **members,
        )


class Members(TypedDict, total=False):
    """What a problem says beyond the standard members."""

    field: str | None
    hint: str | None
    services: list[RefusedService] | None
    errors: list[ProblemItem] | None
    endpoints: list[EndpointEvidence] | None
    in_flight: int | None
    revision: int | None
    lagging: list[str] | None
    release: str | None


def dumped(model: BaseModel) -> bytes:
    """Return a model as JSON."""
    return orjson.dumps(model.model_dump(mode="json"))


def answer(
    model: BaseModel, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return a model as an answer."""
    return web.Response(
        body=dumped(model), status=status, content_type=JSON_TYPE, headers=dict(headers or {})
    )


def problem_answer(error: ProblemError) -> web.Response:
    """Return a problem as an answer; members that say nothing are left out."""
    body = orjson.dumps(error.problem.model_dump(mode="json", exclude_none=True))
    return web.Response(
        body=body,
        status=error.problem.status,
        content_type=PROBLEM_TYPE,
        headers=error.headers,
    )


def plain_problem(status: int, kind: str | None = None, detail: str = "") -> ProblemError:
    """Return a problem for a bare HTTP status."""
    phrase = HTTPStatus(status).phrase
    return ProblemError(status, kind or phrase.lower().replace(" ", "-"), detail)
