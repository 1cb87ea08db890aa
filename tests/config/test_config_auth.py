"""Files that ``auth`` names, and the keys that ``gateway api-key`` mints for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli.api_key import command
from gateway.config.build import build_topology
from gateway.config.load import ConfigErrors, parse_text
from gateway.policy.auth.apikeys import ApiKeyBook
from gateway.policy.auth.subject import CredentialError
from tests.support.issuer import key_set

FILE = """\
auth:
  partners: {{api_keys: {{keys_file: {keys}}}}}
  users: {{jwt: {{issuer: i, audience: [a], jwks_file: {jwks}}}}}
services: {{web: {{blue: {{endpoints: ["http://a"]}}}}}}
"""


def test_a_minted_key_is_found_by_its_line(tmp_path: Path) -> None:
    minted = json.loads(CliRunner().invoke(command, ["acme", "--scope", "a:b", "--json"]).output)
    keys, jwks = tmp_path / "keys", tmp_path / "jwks"
    keys.write_text(f"# ours\n\nacme {minted['hash']} a:b\n")
    jwks.write_bytes(key_set())
    config = parse_text(FILE.format(keys=keys, jwks=jwks).encode(), "f", {}).config
    partners, users = build_topology(config, number=1, pools=(), rows={"web": 1}).auth
    assert partners.api_keys is not None
    assert users.jwt is not None
    assert users.jwt.keys == key_set()
    subject = ApiKeyBook("partners", partners.api_keys.keys).find(minted["key"].encode())
    assert (subject.name, subject.scopes) == (b"partners:acme", frozenset({"a:b"}))
    with pytest.raises(CredentialError):
        ApiKeyBook("partners", partners.api_keys.keys).find(minted["hash"].encode())


def test_what_is_wrong_in_a_keys_file_is_told_by_its_line_and_not_quoted(tmp_path: Path) -> None:
    keys, jwks = tmp_path / "keys", tmp_path / "jwks"
    good = "sha256:" + "0" * 64
    keys.write_text(f"a gwk_secret\na {good}\nb {good}\n/ sha256:{'1' * 64}\nc\n")
    jwks.write_text("{}")
    with pytest.raises(ConfigErrors) as caught:
        parse_text(FILE.format(keys=keys, jwks=jwks).encode(), "f", {})
    told = str(caught.value)
    assert [f"line {number} " in told for number in range(1, 6)] == [True, False, True, True, True]
    assert "no key set" in told
    assert "gwk_secret" not in told


@pytest.mark.parametrize("arguments", [["a b"], [""], ["a", "--scope", "x y"]])
def test_names_and_scopes_that_no_file_can_have_are_refused(arguments: list[str]) -> None:
    assert CliRunner().invoke(command, arguments).exit_code == 2
