"""What does nothing as it stands is warned of, and nothing that does something."""

from __future__ import annotations

import pytest

from gateway.config.load import parse_text

SERVICE = "services: {a: {blue: {endpoints: ['http://a']}}}\n"
USERS = "auth: {users: {jwt: {issuer: i, audience: a, jwks_file: f}}}\n"
GUARDED = USERS + "routes: [{path: /, service: a, auth: users"
HEADER = "traffic: {cohort: {header: X-User}}\n"
PAIR = "{certificate: %s, key: b}"


def warnings(text: str) -> list[str]:
    loaded = parse_text((SERVICE + text).encode(), "f", {}, read_secrets=False)
    return [str(warning).partition(": ")[2] for warning in loaded.warnings]


@pytest.mark.parametrize(
    "text",
    [
        GUARDED + ", rate_limit: {rate: 1/s, key: subject}}]",
        GUARDED + "}]\nlimits: {rate: {rate: 1/s, key: subject}}",
        HEADER + "limits: {rate: {rate: 1/s, key: [identity]}}",
        "limits: {rate: {rate: 1/s, key: [subject, identity, client]}}",
        (
            "routes: [{path: /, service: a, security: p, cors: c}]\n"
            "security: {profiles: {p: {}}, cors: {profiles: {c: {origins: ['*']}}}}"
        ),
        "security: {cors: {default: c, profiles: {c: {origins: ['*']}}}}",
        "auth: {k: {api_keys: {keys_file: f}}}\nroutes: [{path: /, service: a, auth: [k]}]",
        f"listen: [{{address: '0.0.0.0:1', tls: {{certificates: [{PAIR % 'a'}, {PAIR % 'c'}]}}}}]",
        "acme: {folder: f}\nroutes: [{path: /, service: a}, {path: /.well-known, service: a}]",
        "routes: [{path: /.well-known/acme-challenge/, service: a}]",
    ],
)
def test_what_does_something_is_not_warned_of(text: str) -> None:
    assert warnings(text) == []


@pytest.mark.parametrize(
    ("text", "place", "told"),
    [
        (
            "routes: [{path: /, service: a, rate_limit: {rate: 1/s, key: [subject]}}]",
            "routes[0].rate_limit.key",
            "nobody is asked who they are on this route",
        ),
        (
            GUARDED + "}, {path: /b, service: a, rate_limit: [{rate: 1/s, key: subject}]}]",
            "routes[1].rate_limit[0].key",
            "nobody is asked who they are on this route",
        ),
        (
            "limits: {rate: {rate: 1/s, key: subject}}",
            "limits.rate.key",
            "nobody is asked who they are on any route",
        ),
        (
            "limits: {rate: [{rate: 1/s}, {rate: 1/s, key: identity}]}",
            "limits.rate[1].key",
            "no field has an identity",
        ),
        ("security: {profiles: {p: {}}}", "security.profiles.p", "no route names it"),
        (
            "security: {cors: {profiles: {c: {origins: ['*']}}}}",
            "security.cors.profiles.c",
            "no route names it",
        ),
        (USERS, "auth.users", "no route names it"),
        (
            "auth: {k: {api_keys: {}}}\nroutes: [{path: /, service: a, auth: k}]",
            "auth.k.api_keys",
            "has no keys, so it lets nobody in",
        ),
        (
            f"listen: [{{address: '[::]:1', tls: {{certificates: [{PAIR % 'a'}, {PAIR % 'a'}]}}}}]",
            "listen[0].tls.certificates[1].certificate",
            "is certificates[0]'s file already",
        ),
        (
            "acme: {folder: f}\nroutes: [{path: /.well-known/acme-challenge, service: a}]",
            "routes[0].path",
            "acme.folder answers here before any route",
        ),
    ],
)
def test_what_does_nothing(text: str, place: str, told: str) -> None:
    [found] = warnings(text)
    assert found.startswith(f"{place}: {told}"), found
