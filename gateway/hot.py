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

#: Dotted names of the modules that are compiled. ``setup.py`` reads this list. A module sees the
#: C types of those before it (``hotheaders``).
HOT_MODULES: tuple[str, ...] = (
    "gateway.wire.head",
    "gateway.wire.body",
    "gateway.wire.hello",
    "gateway.wire.target",
    "gateway.channel.histogram",
    "gateway.policy.route",
    "gateway.policy.cohort",
    "gateway.policy.trace",
    "gateway.policy.balance",
    "gateway.policy.security",
    "gateway.policy.limit",
    "gateway.policy.forwarded",
    "gateway.proxy.hexes",
    "gateway.proxy.wheel",
    "gateway.proxy.stream",
    "gateway.proxy.guard",
    "gateway.proxy.limiting",
    "gateway.proxy.endpoint",
    "gateway.proxy.tally",
    "gateway.proxy.record",
    "gateway.proxy.shared",
    "gateway.proxy.assign",
    "gateway.proxy.upstream",
    "gateway.proxy.copies",
    "gateway.proxy.cache",
    "gateway.proxy.visit",
    "gateway.proxy.tunnel",
    "gateway.proxy.exchange",
    "gateway.proxy.downstream",
    "gateway.proxy.tls",
)

#: Marks inside an extension (see ``setup.py``): its source's digest; that of the C types it shows
#: others (its header, see ``hotheaders``); and, as ``MODULE=DIGEST``, those it was compiled with.
STAMP = b"gateway-source-sha256:"
SHOWN = b"gateway-header-sha256:"
NEEDS = b"gateway-needs-sha256:"

_DIGEST_LENGTH = 64


def source_digest(source: bytes) -> str:
    """Return the hex SHA-256 that stands for one module's source."""
    return hashlib.sha256(source).hexdigest()


def stamped_digest(binary: bytes, stamp: bytes = STAMP) -> str | None:
    """Return the digest that an extension bears after ``stamp``, None where it bears none."""
    at = binary.find(stamp)
    if at < 0:
        return None
    start = at + len(stamp)
    return binary[start : start + _DIGEST_LENGTH].decode("ascii", "replace")


def needed_headers(binary: bytes) -> dict[str, str]:
    """Return the modules whose C types an extension was compiled with, and their digests."""
    at = binary.find(NEEDS)
    if at < 0:
        return {}
    listed = binary[at + len(NEEDS) : binary.index(b"\0", at)].decode("ascii", "replace")
    pairs = (entry.partition("=") for entry in listed.split())
    return {name: digest for name, _, digest in pairs}


def current_extension(source: Path) -> Path | None:
    """Return the extension beside ``source`` that was built from exactly this source, if any.

    What it knows of other modules' C types must be true of the extensions that these have, too: it
    reads their objects without asking.
    """
    found = _current(source)
    return None if found is None else found[0]


def _current(source: Path) -> tuple[Path, str | None] | None:
    """Return the extension and the digest of the C types that it shows."""
    stem = source.with_suffix("")
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        binary = stem.with_name(stem.name + suffix)
        if not binary.is_file():
            continue
        known = _known.get(binary)
        now = (source.stat().st_mtime_ns, binary.stat().st_mtime_ns)
        if known is None or known[0] != now:
            octets = binary.read_bytes()
            current = stamped_digest(octets) == source_digest(source.read_bytes())
            needed = needed_headers(octets) if current else {}
            known = _known[binary] = (now, current, stamped_digest(octets, SHOWN), needed)
        _, current, shown, needed = known
        root = source.parents[len(_module_of(source)) - 1]
        if current and all(
            _shows(root.joinpath(*name.split(".")).with_suffix(".py"), digest)
            for name, digest in needed.items()
        ):
            return binary, shown
    return None


#: What was read of an extension, by its path: times of source and binary, whether it is of the
#: source, what it shows and what it needs. Every module that needs another asks of it again.
_known: dict[Path, tuple[tuple[int, int], bool, str | None, dict[str, str]]] = {}


def _module_of(source: Path) -> list[str]:
    """Return the parts of the dotted name of the hot module that a source is."""
    parts = source.with_suffix("").parts
    for name in HOT_MODULES:
        wanted = name.split(".")
        if list(parts[-len(wanted) :]) == wanted:
            return wanted
    return [source.stem]


def _shows(source: Path, digest: str) -> bool:
    found = _current(source) if source.is_file() else None
    return found is not None and found[1] == digest


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
