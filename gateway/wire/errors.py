"""The one error of the wire: a message that cannot be read in exactly one way."""

from __future__ import annotations


class WireError(ValueError):
    """A head or body that breaks the framing rules, or exceeds a limit.

    ``kind`` is a short stable word (``bad-field-name``), ``status`` what a server answers to such
    a request (400, 414, 431, 501, 505); for an upstream's answer it is 502 whatever this says.
    """

    def __init__(self, kind: str, detail: str, status: int = 400) -> None:
        super().__init__(kind, detail, status)
        self.kind = kind
        self.detail = detail
        self.status = status

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}"
