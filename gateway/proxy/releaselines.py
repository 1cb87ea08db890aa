"""The fields by which an answer says whose it is."""

from __future__ import annotations


def release_lines(release: str) -> tuple[bytes, bytes, bytes, bytes]:
    """Return the lines of stable blue, stable green, candidate blue and candidate green."""
    identity = f"X-Release-Id: {release}\r\n" if release else ""
    lines = [
        f"X-Release-Color: {color}\r\nX-Release-Role: {role}\r\n{identity}Via: 1.1 gateway\r\n"
        for role in ("stable", "candidate")
        for color in ("blue", "green")
    ]
    first, second, third, fourth = (line.encode("ascii") for line in lines)
    return first, second, third, fourth
