"""From a file to a ``Config``: read, parsed, checked, with every error at once.

    config = load_file(Path("gateway.yaml"), os.environ)

A file that cannot be read, is not YAML or is wrong raises ``ConfigErrors`` and nothing else. Paths
in the file are relative to the working directory, as in the shell that starts the gateway.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.config import yaml12
from gateway.config.advice import advice
from gateway.config.cross import cross_faults
from gateway.config.cross_auth import AuthReader
from gateway.config.faults import place_text, validate
from gateway.config.files import read_bounded, reason
from gateway.config.notyet import NOT_YET, not_yet
from gateway.config.pages import PageReader, page_faults
from gateway.config.pointers import PointerReader
from gateway.config.secrets import AuthFiles, Secrets

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from gateway.config.faults import Fault
    from gateway.config.schema import Config
    from gateway.config.secrets import Kept

#: More are not told one by one.
_MAX_PROBLEMS = 200


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One error or warning of a file. Line and column count from 1."""

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        """``FILE:LINE:COLUMN: path.to.key: what is wrong, what is expected``."""
        where = f"{self.file}:{self.line}:{self.column}: "
        return f"{where}{self.path}: {self.message}" if self.path else where + self.message


class ConfigErrors(Exception):  # noqa: N818 - it is all the errors of a file, not one
    """Everything that is wrong with a configuration, in the file's order."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems[:_MAX_PROBLEMS]]
        more = len(self.problems) - len(lines)
        return "\n".join([*lines, f"and {more} more"] if more > 0 else lines)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that is right, and what its author should know about it."""

    config: Config
    warnings: tuple[Problem, ...]


def load_file(path: Path, env: Mapping[str, str]) -> Config:
    """Return a file's configuration, with the secrets that it points to.

    Raises ConfigErrors with everything that is wrong.
    """
    return read_file(path, env).config


def read_file(
    path: Path,
    env: Mapping[str, str],
    *,
    read_secrets: bool = True,
    read_pages: bool | None = None,
    kept: Kept | None = None,
) -> Loaded:
    """Return a file's configuration and warnings.

    Without ``read_secrets`` neither environment variables nor files that hold secrets or
    certificates are looked at; without ``read_pages`` (None: as ``read_secrets``) no files that
    answers are made of. ``kept`` stands in for what was in force and whose files are of no use now.
    Raises ConfigErrors with everything that is wrong.
    """
    try:
        octets = read_bounded(path, yaml12.MAX_FILE)
    except OSError as error:
        problem = Problem(str(path), 1, 1, "", f"cannot be read: {reason(error)}")
        raise ConfigErrors((problem,)) from None
    return parse_text(
        octets, str(path), env, read_secrets=read_secrets, read_pages=read_pages, kept=kept
    )


def parse_text(
    octets: bytes,
    name: str,
    env: Mapping[str, str],
    *,
    read_secrets: bool = True,
    read_pages: bool | None = None,
    kept: Kept | None = None,
) -> Loaded:
    """Return the configuration that ``octets`` are; ``name`` is the file's in messages.

    Raises ConfigErrors with everything that is wrong.
    """
    document = yaml12.parse(octets)
    problems = [
        Problem(name, fault.mark.line, fault.mark.column, place_text(fault.place), fault.message)
        for fault in document.faults
    ]
    if not isinstance(document.data, dict):
        if not problems:
            mark = document.mark(())
            what = "the file is empty" if document.data is None else "the file is not a mapping"
            message = f"{what}, expected keys and values such as services:"
            problems.append(Problem(name, mark.line, mark.column, "", message))
        raise ConfigErrors(tuple(problems))
    config, faults = validate(document.data)
    faults += cross_faults(document.data)
    faults += page_faults(document.data)
    secrets = Secrets()
    odd: list[Fault] = []
    if read_secrets:
        reader = PointerReader(env, time.time(), kept)
        secrets = reader.read(document.data)
        faults += reader.faults
        odd = reader.warnings
    files_of_auth = AuthReader()
    if read_secrets:
        files_of_auth.read(document.data)
        faults += files_of_auth.faults
    pages: dict[str, bytes] = {}
    if read_secrets if read_pages is None else read_pages:
        files = PageReader()
        pages = files.read(document.data)
        faults += files.faults
    marked = {(fault.mark, fault.place) for fault in document.faults}
    for fault in faults:
        mark = document.mark(fault.place, at_key=fault.at_key)
        # What is wrong as YAML already is not told once more as a value.
        if (mark, fault.place) not in marked:
            problems.append(Problem(name, mark.line, mark.column, fault.path, fault.message))
    if problems or config is None:
        raise ConfigErrors(tuple(sorted(set(problems))))
    warnings = sorted({*_warnings(document, name, odd), *_advice(config, document, name)})
    config = config.with_secrets(secrets).with_pages(pages)
    auth_files = AuthFiles(files_of_auth.keys, files_of_auth.jwks)
    return Loaded(config.with_auth_files(auth_files), tuple(warnings))


def _warnings(document: yaml12.Document, name: str, odd: Iterable[Fault]) -> tuple[Problem, ...]:
    """Return what is odd, and one warning for each kind of key that is not yet in force."""
    warnings = []
    for fault in odd:
        mark = document.mark(fault.place)
        warnings.append(Problem(name, mark.line, mark.column, fault.path, fault.message))
    for pattern, places in not_yet(document.data).items():
        marks = [document.mark(place, at_key=True) for place in places]
        others = ", ".join(str(line) for line in sorted({mark.line for mark in marks[1:6]}))
        more = ", …" if len(marks) > 6 else ""
        also = f" (also at line {others}{more})" if others else ""
        warnings.append(
            Problem(
                name,
                marks[0].line,
                marks[0].column,
                place_text(places[0]),
                f"{NOT_YET[pattern]}{also}",
            )
        )
    return tuple(warnings)


def _advice(config: Config, document: yaml12.Document, name: str) -> tuple[Problem, ...]:
    """Return what is right and yet hardly meant."""
    marked = [(fault, document.mark(fault.place)) for fault in advice(config)]
    return tuple(
        Problem(name, mark.line, mark.column, fault.path, fault.message) for fault, mark in marked
    )
