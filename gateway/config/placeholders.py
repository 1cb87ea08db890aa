"""``{name}`` in a check's requests: a value that an earlier answer gave. Pure.

Only names that are known are places to fill in: the braces of a JSON body mean themselves.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}", re.ASCII)
_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]{0,31})\}", re.ASCII)


def names_in(text: str) -> tuple[str, ...]:
    """Return what stands in braces and could be a name, in order."""
    return tuple(_PLACEHOLDER.findall(text))


def filled(text: str, values: Mapping[str, str], safe: Callable[[str], str] = str) -> str:
    """Return ``text`` with known names' values, each made ``safe`` for where it stands."""
    return _PLACEHOLDER.sub(
        lambda match: safe(values[match[1]]) if match[1] in values else match[0], text
    )
