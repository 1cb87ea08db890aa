"""The guard's questions of who asks: address lists, then authentication.

Not compiled: what costs here is a hash (API keys), a dictionary (a token seen before) or a
signature (a new one: some 50-100 µs, most of it in C, once for each token and worker). Nothing
waits: the issuers' keys are facts that control sends (see ``KeyRing``).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from gateway.board import layout
from gateway.config.keyset import KeySet, read_keyset
from gateway.policy.auth.apikeys import PREFIX, ApiKeyBook
from gateway.policy.auth.subject import CredentialError, Subject
from gateway.policy.auth.token import verify
from gateway.policy.forwarded import ProxyTrust
from gateway.proxy.errors import Failure
from gateway.wire.fields import AUTHORIZATION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gateway.config.snapshot import ApiKeys, AuthScheme, Jwt, Route
    from gateway.proxy.guard import Admission, Asked
    from gateway.wire.head import Head

#: Verified tokens that a scheme remembers in each worker; the oldest goes first.
MEMO_SIZE = 10_000
#: Addresses that a list remembers the reading of: there may be as many lists as routes.
MAX_ADDRESSES = 512
#: Seconds between two words to control about unknown keys of one issuer.
TELL_EVERY = 1.0
#: Seconds after which a client may ask again where an issuer's keys were never read.
KEYS_RETRY = 5.0

_KEY_PREFIX = PREFIX.encode("ascii")
_AUTHORIZATION_BIT = 1 << AUTHORIZATION
_RESULTS = {name: at for at, name in enumerate(layout.AUTH_RESULTS)}


class AuthCounts:
    """Counts what authentication came to, in this worker's slab of the board."""

    def __init__(self, words: memoryview, slab: int) -> None:
        self._words = words
        self._at = layout.slab_at(slab) + layout.S_AUTH

    def count(self, result: str) -> None:
        """Count one more. Raises KeyError for what is none of ``layout.AUTH_RESULTS``."""
        self._words[self._at + _RESULTS[result]] += 1


class KeyRing:
    """The key sets of issuers by URL, as control last told them.

    ``unknown`` is called with a URL whose set lacked a key, once a second at most.
    """

    def __init__(self, unknown: Callable[[str], object] = lambda source: None) -> None:
        self._unknown = unknown
        self._sets: dict[str, KeySet] = {}
        self._octets: dict[str, bytes] = {}
        self._told: dict[str, float] = {}

    def update(self, sources: Mapping[str, bytes]) -> None:
        """Take what control tells. A set that cannot be read leaves the one before."""
        for source, octets in sources.items():
            if self._octets.get(source) == octets:
                continue
            try:
                self._sets[source] = read_keyset(octets)
            except ValueError:
                continue  # control reads it before it tells: another version's, then
            self._octets[source] = octets

    def of(self, source: str) -> KeySet | None:
        """Return a source's keys; None: they were never read."""
        return self._sets.get(source)

    def missed(self, source: str, now: float) -> None:
        """Have control look whether the source has more keys now. ``now`` is monotonic."""
        if now - self._told.get(source, -TELL_EVERY) >= TELL_EVERY:
            self._told[source] = now
            self._unknown(source)


class AddressCheck:
    """Lets in whom ``allow`` names (nobody named: everybody) and ``deny`` does not."""

    def __init__(
        self, allow: ProxyTrust | None, deny: ProxyTrust | None, counts: AuthCounts
    ) -> None:
        self._allow = allow
        self._deny = deny
        self._counts = counts

    def check(self, asked: Asked, admission: Admission) -> None:
        """Decide by the client's address, that behind trusted proxies."""
        del admission
        client = asked.client
        denied = self._deny is not None and self._deny.trusts(client)
        if denied or not (self._allow is None or self._allow.trusts(client)):
            self._counts.count("address")
            raise Failure("forbidden")


class KeyScheme:
    """API keys."""

    def __init__(self, scheme: AuthScheme, config: ApiKeys) -> None:
        self.name = scheme.name
        self._book = ApiKeyBook(scheme.name, config.keys, config.name_field)
        self._field = None if config.field is None else config.field.lower().encode("ascii")
        #: What carries nothing but keys.
        self.fields = () if self._field is None else (self._field,)

    def admit(self, asked: Asked, bearer: bytes | None) -> Subject | None:
        """Return whose key came; None: none did. Raises CredentialError."""
        if self._field is not None:
            values = asked.head.find_all(self._field)
            if len(values) > 1:
                raise CredentialError("more than one key")
            if values:
                return self._book.find(values[0])
        # Three parts between dots are a token's: another scheme's to read.
        if bearer is None or bearer.count(b".") == 2:
            return None
        return self._book.find(bearer)

    def is_key(self, bearer: bytes) -> bool:
        """Tell whether a credential that was not asked for is a key all the same."""
        if bearer.startswith(_KEY_PREFIX):
            return True
        if bearer.count(b".") == 2:
            return False
        try:
            self._book.find(bearer)
        except CredentialError:
            return False
        return True


class TokenScheme:
    """Signed tokens, each verified once and then known by its digest for as long as it counts."""

    def __init__(self, scheme: AuthScheme, config: Jwt, ring: KeyRing) -> None:
        self.name = scheme.name
        self._config = config
        self._ring = ring
        #: None of its own: a token comes in ``Authorization``, and is the backend's to read, too.
        self.fields: tuple[bytes, ...] = ()
        self._own = read_keyset(config.keys) if config.keys else None
        self._memo: dict[bytes, Subject] = {}
        self._of: KeySet | None = None

    def admit(self, asked: Asked, bearer: bytes | None) -> Subject | None:
        """Return whose token came; None: none did. Raises CredentialError, or Failure where the
        issuer's keys were never read.
        """
        if bearer is None:
            return None
        keys = self._own if self._own is not None else self._ring.of(self._config.source)
        if keys is not self._of:
            # A key that its issuer took back vouches for nobody any more.
            self._memo.clear()
            self._of = keys
        digest = hashlib.sha256(bearer).digest()
        subject = self._memo.get(digest)
        if subject is not None:
            if subject.since <= asked.wall < subject.until:
                return subject
            del self._memo[digest]
        if keys is None:
            self._ring.missed(self._config.source, asked.now)
            raise Failure("auth-unavailable", retry_after=KEYS_RETRY)
        try:
            subject = verify(bearer, keys, self.name, self._config, asked.wall)
        except CredentialError as error:
            if error.unknown_key and self._config.source:
                self._ring.missed(self._config.source, asked.now)
            raise
        if len(self._memo) >= MEMO_SIZE:
            del self._memo[next(iter(self._memo))]
        self._memo[digest] = subject
        return subject

    @staticmethod
    def is_key(bearer: bytes) -> bool:
        """Tell of no credential that it is a key."""
        del bearer
        return False


Scheme = KeyScheme | TokenScheme


class AuthCheck:
    """Asks who it is. The schemes are tried in order; one that verifies is enough."""

    def __init__(
        self,
        schemes: Sequence[Scheme],
        counts: AuthCounts,
        *,
        optional: bool = False,
        scopes: Sequence[str] = (),
    ) -> None:
        self._schemes = tuple(schemes)
        self._fields = tuple(field for each in schemes for field in each.fields)
        self._counts = counts
        self._optional = optional
        self._scopes = frozenset(scopes)
        self._asks = b"WWW-Authenticate: Bearer realm=%s" % _quoted("gateway")
        wanted = _quoted(" ".join(scopes))
        self._more = self._asks + b', error="insufficient_scope", scope=%s\r\n' % wanted

    def check(self, asked: Asked, admission: Admission) -> None:
        """Admit a subject, or an anonymous request where that may be; refuse all else.

        No backend gets a key, whoever admitted the request and however the field is spelled.
        """
        admission.spent = self._fields
        try:
            bearer = _bearer(asked.head)
            subject = self._subject(asked, bearer)
        except CredentialError as error:
            self._counts.count("invalid")
            admission.lines += self._asks + (
                b', error="invalid_token", error_description=%s\r\n' % _quoted(error.reason)
            )
            raise Failure("unauthorized") from None
        except Failure:
            self._counts.count("unavailable")
            raise
        if subject is None:
            if self._optional:
                self._counts.count("anonymous")
                return
            self._counts.count("missing")
            admission.lines += self._asks + b"\r\n"
            raise Failure("unauthorized")
        if not self._scopes <= subject.scopes:
            self._counts.count("forbidden")
            admission.lines += self._more
            raise Failure("forbidden")
        self._counts.count("admitted")
        if bearer is not None and any(each.is_key(bearer) for each in self._schemes):
            admission.spent += (b"authorization",)
        admission.subject = subject.name
        admission.shown = subject.shown
        admission.upstream += subject.lines

    def _subject(self, asked: Asked, bearer: bytes | None) -> Subject | None:
        """Return who it is, None where nothing came that says so.

        Raises CredentialError where all that came is of no use; Failure where that cannot be told.
        """
        refused: CredentialError | None = None
        unavailable: Failure | None = None
        for scheme in self._schemes:
            try:
                subject = scheme.admit(asked, bearer)
            except CredentialError as error:
                refused = refused or error
            except Failure as failure:
                unavailable = unavailable or failure
            else:
                if subject is not None:
                    return subject
        if unavailable is not None:
            raise unavailable
        if refused is not None:
            raise refused
        if bearer is not None:
            raise CredentialError("not accepted here")
        return None


def _bearer(head: Head) -> bytes | None:
    """Return the bearer token (RFC 6750 section 2.1), None where there is none.

    Another scheme's credentials (Basic, say) are not for the gateway: the backend has them.
    Raises CredentialError where there is more than one, or an empty one.
    """
    if not head.seen & _AUTHORIZATION_BIT:
        return None
    value = head.get(AUTHORIZATION) or b""
    if head.repeated & _AUTHORIZATION_BIT:
        raise CredentialError("more than one Authorization")
    scheme, _, token = value.partition(b" ")
    if scheme.lower() != b"bearer":
        return None
    token = token.strip(b" ")
    if not token:
        raise CredentialError("an empty token")
    return token


def _quoted(text: str) -> bytes:
    """Return a quoted-string (RFC 9110 section 5.6.4) of text that is the gateway's own."""
    return b'"' + text.replace("\\", "\\\\").replace('"', '\\"').encode("ascii") + b'"'


def build_schemes(schemes: Sequence[AuthScheme], ring: KeyRing) -> dict[str, Scheme]:
    """Return the schemes by name. Raises ValueError for keys that cannot be read."""
    built: dict[str, Scheme] = {}
    for scheme in schemes:
        if scheme.api_keys is not None:
            built[scheme.name] = KeyScheme(scheme, scheme.api_keys)
        elif scheme.jwt is not None:
            built[scheme.name] = TokenScheme(scheme, scheme.jwt, ring)
    return built


def said_fields(schemes: Sequence[AuthScheme]) -> tuple[bytes, ...]:
    """Return the fields, in lower case, by which backends are told who asks."""
    names: set[str] = set()
    for scheme in schemes:
        if scheme.api_keys is not None and scheme.api_keys.name_field:
            names.add(scheme.api_keys.name_field.lower())
        if scheme.jwt is not None:
            names.update(field.lower() for _, field in scheme.jwt.claims)
    return tuple(sorted(name.encode("ascii") for name in names))


def credential_fields(schemes: Sequence[AuthScheme]) -> tuple[bytes, ...]:
    """Return the fields of their own, in lower case, that credentials come in."""
    fields = [each.api_keys.field for each in schemes if each.api_keys is not None]
    return tuple(sorted({field.lower().encode("ascii") for field in fields if field is not None}))


class AddressLists:
    """Routes' lists of networks. Those that are alike are one: each remembers addresses."""

    def __init__(self, counts: AuthCounts) -> None:
        self._counts = counts
        self._made: dict[tuple[str, ...], ProxyTrust] = {}

    def check(self, route: Route) -> AddressCheck | None:
        """Return a route's check; None where it has no list. Raises ValueError."""
        if not route.allow and not route.deny:
            return None
        return AddressCheck(self._of(route.allow), self._of(route.deny), self._counts)

    def _of(self, networks: tuple[str, ...]) -> ProxyTrust | None:
        if not networks:
            return None
        if networks not in self._made:
            self._made[networks] = ProxyTrust(networks, remembers=MAX_ADDRESSES)
        return self._made[networks]


def auth_check(route: Route, schemes: Mapping[str, Scheme], counts: AuthCounts) -> AuthCheck | None:
    """Return a route's authentication; None where it asks nobody.

    Raises ValueError for a scheme that is not there: no route goes unguarded for a name.
    """
    if not route.auth:
        return None
    missing = [name for name in route.auth if name not in schemes]
    if missing:
        raise ValueError(f"route {route.host}{route.path}: no scheme is called {missing[0]}")
    return AuthCheck(
        [schemes[name] for name in route.auth],
        counts,
        optional=route.auth_optional,
        scopes=route.scopes,
    )
