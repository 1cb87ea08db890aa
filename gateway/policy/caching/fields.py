"""An answer's fields by name, and its lines: what the rules read that the parser does not number.

Made once per answer that may be kept, never on a hit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.wire.head import Head

#: Lower-case name to the values of its lines, in order.
Fields = dict[bytes, list[bytes]]


def fields_of(head: Head) -> Fields:
    """Return a head's fields."""
    found: Fields = {}
    for name, value in head.items():
        found.setdefault(name, []).append(value)
    return found


def first(fields: Fields, name: bytes) -> bytes | None:
    """Return a field's first value, None where it is absent."""
    values = fields.get(name)
    return values[0] if values else None


def members(fields: Fields, name: bytes) -> list[bytes]:
    """Return the members of a comma-separated field, in lower case, empty ones left out."""
    joined = b",".join(fields.get(name, ())).lower()
    return [each for part in joined.split(b",") if (each := part.strip(b" \t"))]


def lines_of(block: bytes) -> list[tuple[bytes, bytes]]:
    """Return (lower-case name, whole line without CRLF) of a rendered head's field lines.

    ``block`` is a head that a parser has taken: nothing in it is folded.
    """
    lines = block.split(b"\r\n")[1:]
    return [(line.partition(b":")[0].lower(), line) for line in lines if line]
