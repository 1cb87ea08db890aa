"""The API's hints in the words of the command line.

The API speaks to programs: of paths, methods and JSON. Who has typed a verb is told the verb.
"""

from __future__ import annotations

import re
from typing import Final

#: What a hint may say, and the same as a verb; those that are longer come first.
VERBS: Final = tuple(
    (re.compile(said), verb)
    for said, verb in (
        (r'POST /v1/rollback \{"to": "(stable|previous)"\}', r"`gateway rollback --to \1`"),
        (r"POST /v1/rollback\b", "`gateway rollback`"),
        (
            r"POST /v1/releases/([^/\s]+)/(abort|finalize|pause|promote|renew|resume)\b",
            r"`gateway release \2 \1`",
        ),
        (r'promote it \{"to": ([0-9.]+)\}', r"`gateway release promote --to \1`"),
        (r"PUT /v1/traffic to ([0-9.]+)", r"`gateway traffic set \1`"),
        (r"POST /v1/services/([^/\s]+)/pools/(\w+)/drain\b", r"`gateway pool drain \1 \2`"),
        (r"PUT /v1/services/([^/\s]+)/pools/(\w+)", r"`gateway pool set \1 \2 URL`"),
        (
            r"DELETE /v1/services/([^/\s]+)/isolate\?color=(\w+)",
            r"`gateway isolate \1 \2 --lift`",
        ),
        (r"GET /v1/breakers\b", "`gateway breakers`"),
        (r'"force": true', "--force"),
        (r'\{"to": "(stable|previous)"\}', r"--to \1"),
    )
)


def in_verbs(hint: str) -> str:
    """Return a hint with every call that it speaks of as the verb that makes it."""
    for said, verb in VERBS:
        hint = said.sub(verb, hint)
    return hint
