"""What is answered before any route: an ACME client's challenges, and the way to https."""

from __future__ import annotations

import os
import stat
from typing import Final

#: RFC 8555 section 8.3.
CHALLENGES: Final = b"/.well-known/acme-challenge/"

#: RFC 8555 section 8.1: base64url; 22 octets at least have 128 bits. Longer names are no token's.
_TOKEN: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
MAX_TOKEN: Final = 128
#: Octets of a key authorization: a token, a dot and a digest.
MAX_CHALLENGE: Final = 1024

CHALLENGE_LINES: Final = (
    b"Content-Type: text/plain\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
)


def challenge(folder: str, path: bytes) -> bytes | None:
    """Return the challenge that a path under ``CHALLENGES`` asks for, None where there is none.

    A token has no dot and no slash, so that it names a file of the folder itself; a symbolic link
    or anything but a plain file is none.
    """
    token = path[len(CHALLENGES) :]
    if not 0 < len(token) <= MAX_TOKEN or not _TOKEN.issuperset(token):
        return None
    name = f"{folder}/{token.decode('ascii')}"
    try:
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        told = os.fstat(handle)
        if not stat.S_ISREG(told.st_mode) or told.st_size > MAX_CHALLENGE:
            return None
        return os.read(handle, MAX_CHALLENGE)
    except OSError:
        return None
    finally:
        os.close(handle)


def https_location(host: bytes, port: int, target: bytes) -> bytes:
    """Return the Location line of the same target on the https port. ``host`` has no port."""
    public = b"" if port == 443 else b":%d" % port
    return b"Location: https://" + host + public + target + b"\r\n"
