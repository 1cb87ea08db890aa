"""``gateway check`` and ``gateway schema`` as somebody types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli.check import command as check
from gateway.cli.schema import command as schema

RIGHT = "services: {web: {blue: {endpoints: ['http://127.0.0.1:1']}}}\n"
BARE = (
    "routes: no route names a security profile, so answers are given no security fields; on routes "
    "of pages, security: page begins with those that lock nobody out [notice]\n"
)


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "gateway.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_right_file_is_ok(tmp_path: Path) -> None:
    path = write(tmp_path, RIGHT)
    result = CliRunner().invoke(check, ["--config", path])
    assert (result.exit_code, result.stdout, result.stderr) == (
        0,
        f"{path}: ok (1 service, 1 route)\n",
        f"{path}: {BARE}",
    )


def test_warnings_go_to_stderr_and_are_no_failure(tmp_path: Path) -> None:
    path = write(tmp_path, RIGHT + 'state: {redis_url: "redis://r.example"}\n')
    result = CliRunner().invoke(check, ["--config", path])
    assert result.exit_code == 0
    assert result.stderr == (
        f"{path}:2:9: state.redis_url: has no effect yet: state is this machine's alone [warning]\n"
        f"{path}: {BARE}"
    )


def test_a_first_days_profile_is_a_notice(tmp_path: Path) -> None:
    text = RIGHT + (
        "routes: [{service: web, security: page}]\nsecurity: {profiles: {page: {}, unused: {}}}\n"
    )
    path = write(tmp_path, text)
    result = CliRunner().invoke(check, ["--config", path])
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        (
            f"{path}: security.profiles.page.csp: the content policy only reports; once nothing is "
            "reported any more, make it csp [notice]"
        ),
        (
            f"{path}: security.profiles.page.hsts: HSTS lasts 5 minutes; once https works "
            "everywhere, make it longer (365d) [notice]"
        ),
    ]


def test_a_strict_profile_is_no_notice(tmp_path: Path) -> None:
    text = RIGHT + (
        "routes: [{service: web, security: page}]\n"
        "security: {profiles: {page: {csp: \"default-src 'self'\", hsts: 365d}}}\n"
    )
    path = write(tmp_path, text)
    result = CliRunner().invoke(check, ["--config", path])
    assert (result.exit_code, result.stderr) == (0, "")


def test_a_wrong_file_exits_with_2_and_all_its_errors(tmp_path: Path) -> None:
    path = write(tmp_path, RIGHT + "lisen: 1\nworkers: 0\n")
    result = CliRunner().invoke(check, ["--config", path])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        f'{path}:2:1: lisen: unknown key, did you mean "listen"?',
        f"{path}:3:10: workers: 0 is not a number of workers, expected auto or 1 to 256",
    ]


def test_a_file_that_is_not_there_exits_with_2(tmp_path: Path) -> None:
    result = CliRunner().invoke(check, ["--config", str(tmp_path / "none.yaml")])
    assert result.exit_code == 2
    assert "cannot be read: No such file or directory" in result.stderr


def test_secrets_are_looked_up_unless_told_not_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_TOKEN", raising=False)
    text = RIGHT + "admin: {tokens: [{name: a, role: admin, token_env: NO_SUCH_TOKEN}]}\n"
    path = write(tmp_path, text)
    assert CliRunner().invoke(check, ["--config", path]).exit_code == 2
    assert CliRunner().invoke(check, ["--config", path, "--without-secrets"]).exit_code == 0


def test_the_schema_is_json() -> None:
    result = CliRunner().invoke(schema, [])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["$schema"].endswith("2020-12/schema")
