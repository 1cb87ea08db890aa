"""Secrets: found by variables and files, and never shown."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from gateway.config.load import ConfigErrors, Loaded, parse_text
from gateway.config.schema import Config
from tests.support.certificates import Authority

SECRET = "hunter2-hunter2-hunter2"
OTHER = "correct-horse-battery-staple"

TEXT = """\
admin:
  tokens:
    - {name: pipeline, role: operator, token_env: PIPELINE}
    - {name: ops, role: admin, token_file: %s}
traffic:
  cohort: {secret_env: COHORT}
services:
  web: {blue: {endpoints: ["http://127.0.0.1:3001"]}}
"""


def load(
    tmp_path: Path, token: bytes = OTHER.encode(), env: dict[str, str] | None = None
) -> Loaded:
    file = tmp_path / "token"
    file.write_bytes(token)
    names = {"PIPELINE": SECRET, "COHORT": SECRET} | (env or {})
    return parse_text((TEXT % file).encode(), "f", names)


def test_secrets_are_read_from_variables_and_files(tmp_path: Path) -> None:
    config = load(tmp_path, token=f"  {OTHER}\n".encode()).config
    assert dict(config.secrets.tokens) == {"pipeline": SECRET, "ops": OTHER}
    assert config.secrets.cohort == SECRET.encode()


def test_no_secret_shows(tmp_path: Path) -> None:
    config = load(tmp_path).config
    shown = [
        *(repr(config), str(config), repr(config.secrets), str(config.secrets)),
        *(config.model_dump_json(), str(config.model_dump()), repr(config.admin)),
        f"{config.secrets}",
    ]
    assert not [text for text in shown if SECRET in text or OTHER in text]
    assert repr(config.secrets) == "Secrets(tokens=2, cohort=set)"


def test_no_secret_shows_in_an_error(tmp_path: Path) -> None:
    wrong = (
        {"PIPELINE": "short"},
        {"PIPELINE": f"{SECRET} with blanks"},
        {"PIPELINE": OTHER},  # the same as the other token
        {"COHORT": "short"},
    )
    for env in wrong:
        with pytest.raises(ConfigErrors) as caught:
            load(tmp_path, env=env)
        text = f"{caught.value} {caught.value!r} {caught.value.problems}"
        assert not [word for word in (SECRET, OTHER, "short-", "'short'") if word in text]


@pytest.mark.parametrize(
    ("env", "token", "told"),
    [
        (
            {"PIPELINE": "short"},
            OTHER,
            (
                "f:3:51: admin.tokens[0].token_env: the token is too short, "
                "expected at least 16 characters"
            ),
        ),
        (
            {"PIPELINE": ""},
            OTHER,
            (
                "f:3:51: admin.tokens[0].token_env: the token is too short, "
                "expected at least 16 characters"
            ),
        ),
        (
            {"PIPELINE": "a token with blanks in it"},
            OTHER,
            (
                "f:3:7: admin.tokens[0]: the token has characters that a bearer token cannot have, "
                "expected letters, digits and -._~+/="
            ),
        ),
        (
            {},
            SECRET,
            "f:4:7: admin.tokens[1]: is the same token as admin.tokens[0]'s, expected its own",
        ),
        (
            {},
            "x" * 70_000,
            (
                "f:4:44: admin.tokens[1].token_file: the file that is named here is too large, "
                "expected at most 64 KiB"
            ),
        ),
    ],
)
def test_a_secret_that_is_none_is_told(
    tmp_path: Path, env: dict[str, str], token: str, told: str
) -> None:
    with pytest.raises(ConfigErrors) as caught:
        load(tmp_path, token=token.encode(), env=env)
    assert str(caught.value) == told


def test_a_machine_without_the_secrets_can_check_the_file() -> None:
    loaded = parse_text((TEXT % "/nowhere").encode(), "f", {}, read_secrets=False)
    assert dict(loaded.config.secrets.tokens) == {}


def test_a_certificate_is_looked_at(tmp_path: Path) -> None:
    good, bad, key = tmp_path / "ca.pem", tmp_path / "ca.der", tmp_path / "ca.key"
    authority = Authority()
    good.write_bytes(authority.pem)
    bad.write_bytes(b"\x30\x82")
    key.write_bytes(authority.make("a.example").key)
    text = "services: {{a: {{blue: {{endpoints: ['https://a']}}, tls: {{ca: {}}}}}}}\n"
    config = parse_text(text.format(good).encode(), "f", {}).config
    assert config.services["a"].tls.ca == str(good)
    none = tmp_path / "none"
    for path, what in ((bad, "is not PEM"), (none, "cannot be read"), (key, "authorit")):
        with pytest.raises(ConfigErrors, match=what):
            parse_text(text.format(path).encode(), "f", {})


def test_a_configuration_is_frozen() -> None:
    config = Config.model_validate({"services": {"a": {"blue": {"endpoints": ["http://a"]}}}})
    with pytest.raises(ValueError, match="frozen"):
        config.version = 1
    assert config.with_secrets(config.secrets) == config
    with pytest.raises(TypeError):
        # Not by accident into another process: the topology carries what workers need.
        pickle.dumps(config.secrets)
