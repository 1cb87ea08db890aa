"""Rate limits, of a route and of all of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from gateway.config.schema.types import (
    TAG,
    Count,
    Flag,
    RequestRate,
    Section,
    key,
    names_schema,
    one_or_many,
)

#: What clients are told apart by: one, or a list.
Keys = Annotated[
    tuple[Literal["subject", "client", "identity"], ...],
    Field(min_length=1),
    BeforeValidator(one_or_many),
    names_schema({"enum": ["subject", "client", "identity"]}),
]

_ONE, _LIST = f"{TAG}one", f"{TAG}list"


class RateLimit(Section):
    """How many requests one client may make."""

    rate: RequestRate = Field(description="Requests per unit of time, of the whole machine.")
    burst: Count = key(0, description="Requests that may come at once beyond the rate.")
    dry_run: Flag = key(default=False, description="Count only, turn nobody away.")
    name: str | None = key(
        None,
        pattern="^[a-z0-9][a-z0-9_-]{0,31}$",
        description="What clients see it called; null: by its keys.",
    )
    # Last: the name hides the function from what would follow.
    key: Keys = key(
        ("client",),
        description="What clients are told apart by, one or a list in order; at last by their "
        "address. subject: who was authenticated; identity: whom a trusted proxy vouches for; "
        "client: the address.",
    )


def _one_or_list(value: object) -> str:
    return _ONE if isinstance(value, (dict, RateLimit)) else _LIST


#: One limit, or several.
RateLimits = Annotated[
    Annotated[RateLimit, Tag(_ONE)]
    | Annotated[tuple[RateLimit, ...], Field(max_length=8), Tag(_LIST)],
    Discriminator(_one_or_list),
]
