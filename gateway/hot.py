"""Which modules are compiled, and which of the two forms of a module is imported.

The hot modules are ordinary ``.py`` files in Cython's pure mode. Where a C compiler was there at
install, each has an extension beside it. An extension carries the SHA-256 of the source that it was
built from; one whose source has changed since (an editable install) is passed over, and all of
them are under ``GATEWAY_NO_COMPILED=1``: what runs is always what the source says.

Standard library only: this is imported before anything else of the package.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

#: Dotted names of the modules that are compiled. ``setup.py`` reads this list.
HOT_MODULES: tuple[str, ...] = (
    "gateway.wire.head",
    "gateway.wire.body",
    "gateway.proxy.downstream",
    "gateway.proxy.tls",
    "gateway.proxy.upstream",
    "gateway.proxy.exchange",
    "gateway.proxy.assign",
    "gateway.proxy.cache",
    "gateway.proxy.copies",
    "gateway.proxy.visit",
    "gateway.proxy.endpoint",
    "gateway.proxy.record",
    "gateway.proxy.guard",
    "gateway.proxy.tally",
    "gateway.proxy.tunnel",
    "gateway.proxy.hexes",
    "gateway.wire.target",
    "gateway.wire.websocket",
    "gateway.policy.route",
    "gateway.policy.cohort",
    "gateway.policy.trace",
    "gateway.policy.balance",
    "gateway.policy.security",
    "gateway.policy.limit",
    "gateway.proxy.limiting",
    "gateway.policy.forwarded",
    "gateway.channel.histogram",
)

#: Marks the source's digest inside an extension (see ``setup.py``).
STAMP = b"gateway-source-sha256:"

_DIGEST_LENGTH = 64


def source_digest(source: bytes) -> str:
    """Return the hex SHA-256 that stands for one module's source."""
    return hashlib.sha256(source).hexdigest()


def stamped_digest(binary: bytes) -> str | None:
    """Return the source digest that an extension was built from, None where it bears none."""
    at = binary.find(STAMP)
    if at < 0:
        return None
    start = at + len(STAMP)
    return binary[start : start + _DIGEST_LENGTH].decode("ascii", "replace")


def current_extension(source: Path) -> Path | None:
    """Return the extension beside ``source`` that was built from exactly this source, if any."""
    stem = source.with_suffix("")
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        binary = stem.with_name(stem.name + suffix)
        if not binary.is_file():
            continue
        if stamped_digest(binary.read_bytes()) == source_digest(source.read_bytes()):
            return binary
    return None


class HotModuleFinder:
    """A meta path finder for ``HOT_MODULES``: a current extension, else the source."""

    @staticmethod
    def find_spec(
        fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find one hot module; None for every other name (the usual finders take over)."""
        del target
        if fullname not in HOT_MODULES or path is None:
            return None
        for folder in path:
            source = Path(folder) / (fullname.rpartition(".")[2] + ".py")
            if not source.is_file():
                continue
            extension = None if not_compiled_wanted() else current_extension(source)
            return importlib.util.spec_from_file_location(fullname, extension or source)
        return None


def not_compiled_wanted() -> bool:
    """Tell whether ``GATEWAY_NO_COMPILED`` asks for plain Python."""
    return os.environ.get("GATEWAY_NO_COMPILED", "") not in {"", "0"}


def compiled_state() -> str:
    """Say which form the hot modules have here: ``compiled``, ``plain Python``, or a mixture."""
    package = Path(__file__).parent
    sources = [package.joinpath(*name.split(".")[1:]).with_suffix(".py") for name in HOT_MODULES]
    if not_compiled_wanted():
        return "plain Python"
    current = sum(current_extension(source) is not None for source in sources)
    if current == len(sources):
        return "compiled"
    return "plain Python" if current == 0 else f"{current} of {len(sources)} modules compiled"


def install() -> None:
    """Put the finder first, once."""
    if HotModuleFinder not in sys.meta_path:
        sys.meta_path.insert(0, HotModuleFinder)
