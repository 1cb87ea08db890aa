"""Files that answers are made of: their content types, and the few values they may be filled with.

Pure. A template is JSON or HTML with ``{{names}}`` in it, nothing else: no conditions, no loops.
Values are escaped for the type: for HTML's text and quoted attributes, for the inside of a JSON
string. ``gateway check`` compiles every template, so that a wrong name is an error of the file.
"""

from __future__ import annotations

import html
import json
import re
from typing import TYPE_CHECKING

from gateway.config.scalars import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: What a template may be filled with. ``retry_after`` is in seconds, empty where there is none;
#: ``time`` is RFC 3339 in UTC.
NAMES = ("status", "title", "service", "request_id", "retry_after", "mode", "time")

#: What a template is filled with to see what comes of it. There need not be a ``retry_after``.
TRIAL = dict.fromkeys(NAMES, "x") | {"status": "503", "retry_after": ""}

#: Ends the name of a template: ``5xx.html.tmpl`` is HTML.
SUFFIX = ".tmpl"

_GAP = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)

#: Our own table: the machine's differs from one to the next.
_TYPES = {
    "css": "text/css; charset=utf-8",
    "gif": "image/gif",
    "htm": "text/html; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "ico": "image/vnd.microsoft.icon",
    "ics": "text/calendar; charset=utf-8",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "md": "text/markdown; charset=utf-8",
    "mjs": "text/javascript; charset=utf-8",
    "pdf": "application/pdf",
    "png": "image/png",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
    "webmanifest": "application/manifest+json",
    "webp": "image/webp",
    "xml": "application/xml",
}


def media_type(file: str, given: str | None) -> str:
    """Return a file's Content-Type: the one that is given, else by its extension.

    Raises ValueError where neither says one.
    """
    if given is not None:
        return given
    _, dot, extension = file.removesuffix(SUFFIX).rpartition(".")
    found = _TYPES.get(extension.lower()) if dot else None
    if found is None:
        raise ValueError(f"{shown(file)} has no extension that tells its type, expected a type")
    return found


def is_template(file: str, given: bool | None) -> bool:
    """Tell whether a file is filled in: as it is said, else by the end of its name."""
    return file.endswith(SUFFIX) if given is None else given


def base_type(content_type: str) -> str:
    """Return a content type without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def is_json(content_type: str) -> bool:
    """Tell whether a content type is JSON's (RFC 8259, RFC 6839 section 3.1)."""
    base = base_type(content_type)
    return base == "application/json" or base.endswith("+json")


def _escape_json(text: str) -> str:
    """Return the inside of a JSON string, safe within HTML too."""
    inside = json.dumps(text)[1:-1]
    return inside.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _escape(content_type: str) -> Callable[[str], str]:
    if is_json(content_type):
        return _escape_json
    if base_type(content_type) in {"text/html", "application/xhtml+xml"}:
        return html.escape
    raise ValueError(f"a template of {base_type(content_type)}, expected JSON or HTML")


class Template:
    """One template, compiled. Raises ValueError where it is none; the message says why."""

    __slots__ = ("_escape", "_names", "_texts")

    def __init__(self, content: bytes, content_type: str) -> None:
        self._escape = _escape(content_type)
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"not UTF-8 at octet {error.start}, expected UTF-8") from None
        parts = _GAP.split(text)
        self._texts = tuple(part.encode() for part in parts[::2])
        self._names = tuple(part.strip() for part in parts[1::2])
        if any(b"{{" in text for text in self._texts):
            raise ValueError("a {{ without its }}, expected {{name}}")
        for name in self._names:
            if name not in NAMES:
                known = ", ".join(NAMES)
                gap = shown("{{" + name + "}}")
                raise ValueError(f"{gap} is no value, expected one of: {known}")

    def render(self, values: Mapping[str, str]) -> bytes:
        """Return the content with the values in it; one that is not given is empty."""
        made = [self._texts[0]]
        for name, text in zip(self._names, self._texts[1:], strict=True):
            made.append(self._escape(values.get(name, "")).encode())
            made.append(text)
        return b"".join(made)
