"""A certificate with its key for a TLS context, from octets in memory.

Python's ``ssl`` takes them from files only.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def load_pair(context: ssl.SSLContext, key: bytes, chain: bytes) -> None:
    """Give a context a certificate (PEM). Raises ValueError where OpenSSL does not take it."""
    try:
        with _as_file(key + chain) as name:
            context.load_cert_chain(name, password="")
    except OSError as error:  # ssl.SSLError is one
        why = getattr(error, "reason", None) or error.strerror or "refused"
        raise ValueError(f"OpenSSL does not take it: {why.lower().replace('_', ' ')}") from None


def try_pair(key: bytes, chain: bytes) -> None:
    """Raise ValueError where OpenSSL would not serve with a certificate: a curve or a signature
    may be too weak for it.
    """
    load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), key, chain)


def load_authorities(context: ssl.SSLContext, octets: bytes) -> None:
    """Have a context trust authorities (PEM). Raises ValueError where OpenSSL takes none of it."""
    try:
        context.load_verify_locations(cadata=octets.decode("ascii", "ignore"))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        why = getattr(error, "reason", None) or "no certificate that can be read"
        what = why.lower().replace("_", " ")
        expected = "expected certificates (PEM)"
        raise ValueError(f"OpenSSL does not take these authorities: {what}, {expected}") from None


def try_authorities(octets: bytes) -> None:
    """Raise ValueError where OpenSSL would verify nobody by what a file holds (PEM)."""
    load_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), octets)


@contextlib.contextmanager
def _as_file(octets: bytes) -> Iterator[str]:
    """Give octets a file's name for as long as it takes.

    In memory, where the system can: a key that was read once is written nowhere.
    """
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):  # noqa: PTH112 - as cheap
        handle = os.memfd_create("certificate")
        try:
            with os.fdopen(os.dup(handle), "wb") as file:
                file.write(octets)
            yield f"/proc/self/fd/{handle}"
        finally:
            os.close(handle)
        return
    with tempfile.NamedTemporaryFile() as file:  # 0600
        file.write(octets)
        file.flush()
        yield file.name
