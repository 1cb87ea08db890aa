"""Keys that are typed but not yet in force. Each later version takes its own rows out.

Such a key is accepted, so that a configuration can be written ahead, and ``gateway check`` warns
of it once: nobody shall believe that it protects them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.config.keys import pattern_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.config.keys import Place

#: By pattern: what not being in force means. A key below one of these is covered by it.
NOT_YET: dict[str, str] = {
    # A fleet.
    "state.redis_url": "has no effect yet: state is this machine's alone",
}


def _set_keys(value: object, place: Place) -> Iterator[Place]:
    """Yield the places of all keys that the file sets, parents first."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (*place, name)
            yield from _set_keys(inner, (*place, name))
    elif isinstance(value, tuple):
        for index, inner in enumerate(value):
            yield from _set_keys(inner, (*place, index))


def _at(data: object, place: Place) -> object:
    for step in place:
        data = data[step]  # type: ignore[index]  # the place comes from this very data
    return data


def not_yet(data: object) -> dict[str, list[Place]]:
    """Return the places of keys in a file that are not in force, by their patterns.

    A key that is set to null or to an empty list is as good as absent.
    """
    found: dict[str, list[Place]] = {}
    for place in _set_keys(data, ()):
        pattern = pattern_of(place)
        if pattern in NOT_YET and _at(data, place) not in (None, ()):
            found.setdefault(pattern, []).append(place)
    return found
