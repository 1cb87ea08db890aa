"""Heads and bodies that are nearly right: what the property tests and the corpus are made of."""

from __future__ import annotations

from typing import TypeAlias

#: What an edit does: insert a piece, put it in the place of one octet or of three, leave octets
#: out, say a stretch twice, or exchange two stretches.
EDITS = ("insert", "replace", "replace-3", "delete", "delete-3", "double", "exchange")
#: One edit: its kind, where (modulo the length), and a piece.
Edit: TypeAlias = tuple[str, int, bytes]

#: What parsers disagree about, an octet or a few.
PIECES: tuple[bytes, ...] = (
    *(bytes((octet,)) for octet in b'\0\t\n\x0b\x0c\r "#%,-/0159:;<=?@\\_a\x7f\x80\x85\xa0\xff'),
    b"\r\n",
    b"\r\n\r\n",
    b"\n\n",
    b"\r\r\n",
    b"\r\n ",
    b"\r\n\t",
    b" :",
    b"close",
    b", close",
    b"chunked",
    b"HTTP/1.0",
    b"HTTP/1.2",
    b"/2.0",
    b"Content-Length: 4\r\n",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer_Encoding: chunked\r\n",
    b"Host: b\r\n",
    b"Connection: close, host\r\n",
    b"Expect: 100-continue\r\n",
    b"0\r\n\r\n",
    b"18446744073709551621",
)

METHODS = (
    b"GET",
    b"POST",
    b"HEAD",
    b"PUT",
    b"OPTIONS",
    b"DELETE",
    b"PATCH",
    b"QUERY",
    b"x",
    b"a-b",
)
TARGETS = (
    b"/",
    b"/a/b?c=d&e",
    b"/%61;p=1/..?q=^`|\\{}[]",
    b"*",
    b"http://a/b",
    b"a:443",
    b"//x/",
    b"/" + b"long" * 20,
)
STATUS_LINES = (
    b"HTTP/1.1 200 OK",
    b"HTTP/1.1 200",
    b"HTTP/1.1 404 ",
    b"HTTP/1.0 200 OK",
    b"HTTP/1.1 100 Continue",
    b"HTTP/1.1 101 Switching Protocols",
    b"HTTP/1.1 204 No Content",
    b"HTTP/1.1 304 Not Modified",
    b"HTTP/1.1 500 \xe9\tb",
)

#: Field lines that matter, and some that do not.
LINES: tuple[bytes, ...] = (
    b"Content-Length: 5",
    b"content-length:0",
    b"Content-Length: 0012\t",
    b"Content-Length: 999999999999999999",
    b"Transfer-Encoding: chunked",
    b"transfer-encoding:\tChunked ",
    b"Connection: close",
    b"Connection: keep-alive",
    b"connection: Upgrade, foo",
    b"Connection: keep-alive, close,, x-a",
    b"Keep-Alive: timeout=5",
    b"Upgrade: websocket",
    b"Expect: 100-continue",
    b"TE: trailers, deflate",
    b"Trailer: x-a",
    b"X-A: b",
    b"x-a:",
    b"X-A:  \t",
    b"foo: \xe9 \t x",
    b"X_Forwarded_For: 1.2.3.4",
    b"X-Forwarded-For: 1.2.3.4, 5.6.7.8",
    b"Cookie: a=b; gw_cohort=c",
    b"Set-Cookie: a=b; Path=/",
    b'If-None-Match: W/"a"',
    b"!#$%&'*+-.^`|~09: x",
    b"Accept: */*",
)

#: Bodies in the chunked coding.
BODIES: tuple[bytes, ...] = (
    b"0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"a\r\n0123456789\r\nF\r\n0123456789abcde\r\n000\r\n\r\n",
    b"1\r\na\r\n1\r\nb\r\n0\r\nX-A: b\r\nX-B:\tc \r\n\r\n",
    b"3;a=b\r\nabc\r\n0;c\r\nX-A: \r\n\r\n",
    b"7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n",
)


def edited(data: bytes, edits: list[Edit]) -> bytes:
    """Return the data with the edits made, one after the other."""
    for kind, where, piece in edits:
        at = where % (len(data) + 1)
        if kind == "insert":
            data = data[:at] + piece + data[at:]
        elif kind == "replace":
            data = data[:at] + piece + data[at + 1 :]
        elif kind == "replace-3":
            data = data[:at] + piece + data[at + 3 :]
        elif kind == "delete":
            data = data[:at] + data[at + 1 :]
        elif kind == "delete-3":
            data = data[:at] + data[at + 3 :]
        elif kind == "double":
            data = data[:at] + data[max(0, at - 8) :]
        else:
            middle = max(0, at - 6)
            data = data[:middle] + data[at : at + 6] + data[middle:at] + data[at + 6 :]
    return data
