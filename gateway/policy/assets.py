"""Assets: paths whose 404 from one color is asked of the other (contract, "Cohorts").

A page of the new version asks for its own hashed scripts; a client whose cookie was lost would ask
the old version for them. A single-page application hides that miss: it answers 200 with its start
page, so HTML where a script or a style sheet was asked for counts as a miss too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_TYPED = (b".js", b".mjs", b".css")


class AssetPaths:
    """The patterns of ``traffic.assets.paths``: exact, or a prefix where a final ``*`` follows.

    Raises ValueError for a pattern that does not begin with ``/`` or has a ``*`` elsewhere.
    """

    __slots__ = ("_exact", "_prefixes")

    def __init__(self, patterns: Sequence[str]) -> None:
        exact: set[bytes] = set()
        prefixes: list[bytes] = []
        for pattern in patterns:
            path = pattern.removesuffix("*")
            if not path.startswith("/") or "*" in path:
                raise ValueError(f"{pattern!r}: a path that begins with '/', a '*' at most last")
            if path == pattern:
                exact.add(path.encode())
            else:
                prefixes.append(path.encode())
        self._exact = frozenset(exact)
        self._prefixes = tuple(prefixes)

    def matches(self, path: bytes) -> bool:
        """Tell whether ``path`` (``match_path``'s) is an asset's."""
        return path.startswith(self._prefixes) or path in self._exact


def wrong_type(path: bytes, content_type: bytes | None) -> bool:
    """Tell whether an answer to ``path`` is HTML although a script or style sheet was asked for."""
    if content_type is None or not path.endswith(_TYPED):
        return False
    return content_type[:9].lower() == b"text/html"
