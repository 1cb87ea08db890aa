"""The fields that the gateway itself looks at, and how their names are recognised.

Every such field has a small number; a set of fields is a 64-bit mask of these. A name is recognised
by a hash over its length and four of its octets into a table of 1,024 places without collisions
(the multipliers are searched at import: some twenty tries), then compared in full.
"""

from __future__ import annotations

UNKNOWN = 0

#: Lower case, in the order of their numbers (from 1).
NAMES: tuple[bytes, ...] = (
    b"",
    b"host",
    b"connection",
    b"content-length",
    b"transfer-encoding",
    b"expect",
    b"upgrade",
    b"te",
    b"trailer",
    b"keep-alive",
    b"proxy-connection",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"cookie",
    b"x-forwarded-for",
    b"x-forwarded-proto",
    b"x-forwarded-host",
    b"forwarded",
    b"x-request-id",
    b"traceparent",
    b"tracestate",
    b"x-release-color",
    b"x-release-role",
    b"x-release-id",
    b"x-release-key",
    b"gw_override",
    b"sec-fetch-mode",
    b"sec-fetch-dest",
    b"accept",
    b"authorization",
    b"user-agent",
    b"referer",
    b"via",
    b"content-type",
    b"set-cookie",
    b"cache-control",
    b"date",
    b"server",
    b"location",
    b"content-security-policy",
    b"content-security-policy-report-only",
    b"strict-transport-security",
    b"x-frame-options",
    b"x-content-type-options",
    b"referrer-policy",
    b"permissions-policy",
    b"cdn-cache-control",
    b"x-gateway-error",
    b"x-gateway-served-by",
    b"sec-fetch-site",
    b"x-real-ip",
    b"age",
    b"cache-status",
    b"if-match",
    b"if-modified-since",
    b"if-none-match",
    b"if-range",
    b"if-unmodified-since",
    b"pragma",
    b"range",
)

(
    HOST,
    CONNECTION,
    CONTENT_LENGTH,
    TRANSFER_ENCODING,
    EXPECT,
    UPGRADE,
    TE,
    TRAILER,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    COOKIE,
    X_FORWARDED_FOR,
    X_FORWARDED_PROTO,
    X_FORWARDED_HOST,
    FORWARDED,
    X_REQUEST_ID,
    TRACEPARENT,
    TRACESTATE,
    X_RELEASE_COLOR,
    X_RELEASE_ROLE,
    X_RELEASE_ID,
    X_RELEASE_KEY,
    GW_OVERRIDE,
    SEC_FETCH_MODE,
    SEC_FETCH_DEST,
    ACCEPT,
    AUTHORIZATION,
    USER_AGENT,
    REFERER,
    VIA,
    CONTENT_TYPE,
    SET_COOKIE,
    CACHE_CONTROL,
    DATE,
    SERVER,
    LOCATION,
    CONTENT_SECURITY_POLICY,
    CONTENT_SECURITY_POLICY_REPORT_ONLY,
    STRICT_TRANSPORT_SECURITY,
    X_FRAME_OPTIONS,
    X_CONTENT_TYPE_OPTIONS,
    REFERRER_POLICY,
    PERMISSIONS_POLICY,
    CDN_CACHE_CONTROL,
    X_GATEWAY_ERROR,
    X_GATEWAY_SERVED_BY,
    SEC_FETCH_SITE,
    X_REAL_IP,
    AGE,
    CACHE_STATUS,
    IF_MATCH,
    IF_MODIFIED_SINCE,
    IF_NONE_MATCH,
    IF_RANGE,
    IF_UNMODIFIED_SINCE,
    PRAGMA,
    RANGE,
) = range(1, len(NAMES))

assert len(NAMES) <= 64, "a set of fields is a mask of 64 bits"

BY_NAME: dict[bytes, int] = {name: number for number, name in enumerate(NAMES) if name}


def mask(*numbers: int) -> int:
    """Return the set of these fields as a bit mask."""
    value = 0
    for number in numbers:
        value |= 1 << number
    return value


#: RFC 9110 section 7.6.1, with the historical ones. What ``Connection`` names comes on top.
HOP_BY_HOP = mask(
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
)

TABLE_SIZE = 1024


def _fold_table() -> bytes:
    table = bytearray(range(256))
    for octet in range(ord("A"), ord("Z") + 1):
        table[octet] |= 0x20
    table[ord("_")] = ord("-")
    return bytes(table)


#: What an octet is folded to for comparing names: lower case, and ``-`` for ``_``.
FOLD = _fold_table()


def place(name: bytes, multipliers: tuple[int, int, int]) -> int:
    """Return the hash table's place of a name of two octets or more, whatever its letters' case."""
    a, b, c = multipliers
    name = name.translate(FOLD)
    size = len(name)
    at = size * a + name[0] * b + name[size >> 1] * c + name[size - 1] * 37 + name[size - 2] * 131
    return at & (TABLE_SIZE - 1)


def _search() -> tuple[tuple[int, int, int], bytes]:
    for a in range(1, 1024, 62):
        for b in range(3, 1024, 74):
            for c in range(5, 1024, 86):
                table = bytearray(TABLE_SIZE)
                for name, number in BY_NAME.items():
                    at = place(name, (a, b, c))
                    if table[at]:
                        break
                    table[at] = number
                else:
                    return (a, b, c), bytes(table)
    raise AssertionError("no multipliers without a collision: widen the search")


MULTIPLIERS, TABLE = _search()


def _class_table() -> bytes:
    """Build the octet classes: 1 token, 2 request-target, 4 field value."""
    table = bytearray(256)
    for octet in b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ":
        table[octet] |= 1
    for octet in range(0x21, 0x7F):
        # A fragment never reaches a server (RFC 9112 section 3.2); quotes and angle brackets are no
        # URI octets (RFC 3986), and delimit URIs elsewhere. Nor are a backslash, `^` and `` ` ``,
        # but browsers send these in queries as they are (the URL standard's query set); what they
        # may do in a path, `wire.target` says.
        if octet not in b'#"<>':
            table[octet] |= 2
    for octet in (0x09, *range(0x20, 0x7F), *range(0x80, 0x100)):
        table[octet] |= 4
    return bytes(table)


#: What each octet may stand in. Made here, in a module that is never compiled: in a compiled one,
#: iterating over a bytes literal does not give integers.
CLASSES = _class_table()
