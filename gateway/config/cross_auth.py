"""What the keys of ``auth`` and of routes say about each other, and the files they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gateway.config.faults import Fault, suggestion
from gateway.config.files import read_bounded, reason
from gateway.config.scalars import parse_duration
from gateway.config.schema.auth import HASH, NAME, SCOPE
from gateway.config.snapshot import ApiKey

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gateway.config.keys import Place

#: Octets of a file with keys, and keys of one scheme.
MAX_KEYS_FILE = 8 * 1024 * 1024
MAX_KEYS = 50_000
MAX_JWKS = 256 * 1024
#: Seconds: with more, an expiry says nothing.
MAX_LEEWAY = 300.0


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _items(value: object) -> tuple[object, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else ()


def _one_of(place: Place, keys: Mapping[str, object], first: str, second: str) -> Iterator[Fault]:
    here = [name for name in (first, second) if keys.get(name) is not None]
    if not here:
        yield Fault(place, f"neither {first} nor {second} is there, expected one of them")
    elif len(here) == 2:
        yield Fault(
            (*place, second), f"stands beside {first}, expected one of the two", at_key=True
        )


def auth_faults(data: Mapping[str, object]) -> Iterator[Fault]:
    """Yield what is wrong among schemes, and between them and the routes."""
    schemes = _mapping(data.get("auth"))
    for name, item in schemes.items():
        if isinstance(item, dict):
            yield from _scheme_faults(("auth", name), item)
    for index, item in enumerate(_items(data.get("routes"))):
        yield from _route_faults(("routes", index), _mapping(item), schemes)


def _scheme_faults(place: Place, scheme: Mapping[str, object]) -> Iterator[Fault]:
    yield from _one_of(place, scheme, "api_keys", "jwt")
    keys = _mapping(scheme.get("api_keys"))
    names: dict[object, int] = {}
    hashes: dict[object, int] = {}
    for index, item in enumerate(_items(keys.get("keys"))):
        here = (*place, "api_keys", "keys", index)
        for what, seen in (("name", names), ("hash", hashes)):
            value = _mapping(item).get(what)
            if isinstance(value, str) and value in seen:
                yield Fault((*here, what), f"is keys[{seen[value]}]'s {what} already")
            elif isinstance(value, str):
                seen[value] = index
    jwt = scheme.get("jwt")
    if isinstance(jwt, dict):
        yield from _one_of((*place, "jwt"), jwt, "jwks_url", "jwks_file")
        try:
            long = parse_duration(jwt.get("leeway", "30s")) > MAX_LEEWAY
        except ValueError:
            long = False  # the types have said so
        if long:
            yield Fault((*place, "jwt", "leeway"), "is too long, expected at most 5m")
        fields: dict[str, str] = {}
        for claim, field in _mapping(jwt.get("claims")).items():
            if isinstance(field, str) and field.lower() in fields:
                yield Fault(
                    (*place, "jwt", "claims", claim), f"is {fields[field.lower()]}'s field already"
                )
            elif isinstance(field, str):
                fields[field.lower()] = claim


def _route_faults(
    place: Place, route: Mapping[str, object], schemes: Mapping[str, object]
) -> Iterator[Fault]:
    auth = route.get("auth")
    for index, name in enumerate((auth,) if isinstance(auth, str) else _items(auth)):
        if isinstance(name, str) and name != "off" and name not in schemes:
            here = (*place, "auth") if isinstance(auth, str) else (*place, "auth", index)
            hint = suggestion(name, schemes) if schemes else "none is under auth"
            yield Fault(here, f"unknown scheme, {hint}")
    if auth in {None, "off"} if not isinstance(auth, (tuple, list, dict)) else False:
        if _items(route.get("scopes")):
            yield Fault(
                (*place, "scopes"),
                "nobody is asked who they are here, expected auth too",
                at_key=True,
            )
        if route.get("auth_optional") is True:
            yield Fault(
                (*place, "auth_optional"),
                "nobody is asked who they are here, expected auth too",
                at_key=True,
            )
    elif route.get("auth_optional") is True and _items(route.get("scopes")):
        yield Fault(
            (*place, "auth_optional"),
            "stands beside scopes, which nobody anonymous has, expected one of the two",
            at_key=True,
        )


class AuthReader:
    """Reads the files that ``auth`` names, and keeps what is wrong in ``faults``.

    No message quotes a line of a file: a key may stand where its hash should.
    """

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.keys: dict[str, tuple[ApiKey, ...]] = {}
        self.jwks: dict[str, bytes] = {}

    def read(self, data: Mapping[str, object]) -> None:
        """Read what a configuration's data points to, by the schemes' names."""
        for name, item in _mapping(data.get("auth")).items():
            scheme = _mapping(item)
            keys, jwt = _mapping(scheme.get("api_keys")), _mapping(scheme.get("jwt"))
            place: Place = ("auth", name, "api_keys", "keys_file")
            octets = self._file(place, keys.get("keys_file"), MAX_KEYS_FILE)
            if octets is not None:
                self.keys[name] = tuple(self._lines(place, octets, _items(keys.get("keys"))))
            place = ("auth", name, "jwt", "jwks_file")
            octets = self._file(place, jwt.get("jwks_file"), MAX_JWKS)
            if octets is not None:
                self._key_set(place, name, octets)

    def _file(self, place: Place, name: object, limit: int) -> bytes | None:
        if not isinstance(name, str) or not name or "\0" in name:
            return None
        try:
            octets = read_bounded(Path(name), limit)
        except OSError as error:
            self._fault(place, f"the file that is named here cannot be read: {reason(error)}")
            return None
        if len(octets) > limit:
            self._fault(place, f"the file that is named here is larger than {limit // 1024} KiB")
            return None
        return octets

    def _fault(self, place: Place, message: str) -> None:
        self.faults.append(Fault(place, message))

    def _key_set(self, place: Place, name: str, octets: bytes) -> None:
        from gateway.config.keyset import read_keyset

        try:
            read_keyset(octets)
        except ValueError as error:
            self._fault(place, f"the file that is named here is no key set: {error}")
            return
        self.jwks[name] = octets

    def _lines(self, place: Place, octets: bytes, inline: tuple[object, ...]) -> Iterator[ApiKey]:
        names = {_mapping(item).get("name") for item in inline}
        hashes = {_mapping(item).get("hash") for item in inline}
        lines = octets.decode("utf-8", "replace").splitlines()
        if len(lines) > MAX_KEYS:
            self._fault(place, f"the file has more than {MAX_KEYS} lines")
            return
        for number, line in enumerate(lines, 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            wrong = _wrong_with(words)
            if not wrong and (words[0] in names or words[1] in hashes):
                wrong = "the name or the hash was there before"
            if wrong:
                self._fault(place, f"line {number} of the file: {wrong}")
                continue
            names.add(words[0])
            hashes.add(words[1])
            yield ApiKey(name=words[0], digest=bytes.fromhex(words[1][7:]), scopes=tuple(words[2:]))


def _wrong_with(words: list[str]) -> str:
    expected = "expected NAME sha256:HEX and scopes, as `gateway api-key` prints it"
    if len(words) < 2 or HASH.fullmatch(words[1]) is None:
        return f"no hash of a key, {expected}"
    if NAME.fullmatch(words[0]) is None:
        return f"no name of a key, {expected}"
    if any(SCOPE.fullmatch(scope) is None for scope in words[2:]):
        return f"no scope, {expected}"
    return ""
