"""Where secrets are not: real processes, their command lines, logs, answers, errors and files."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from gateway.policy.auth.apikeys import mint
from tests.support.gateway import TOKEN, GatewayProcess
from tests.support.issuer import claims, jwk, key_set, token
from tests.support.processes import ROOT, children_of, wait_until
from tests.support.upstream import Upstream, always

FILE_TOKEN = "file-token-" + "1" * 24
COHORT = "cohort-secret-" + "2" * 24
GUESS = "guessed-token-" + "3" * 24
KEY, HASHED = mint(bytes(range(32)))
OTHER, _ = mint(bytes(range(2, 34)))


def bearer() -> str:
    now = time.time()
    return token(body=claims(exp=now + 600, iat=now)).decode()


def configured(tmp_path: Path, url: str) -> tuple[GatewayProcess, dict[str, str]]:
    """Return a gateway with every kind of secret that there is, and all of them by name."""
    (tmp_path / "token").write_text(FILE_TOKEN)
    (tmp_path / "partners.keys").write_text(f"acme {HASHED}\n")
    (tmp_path / "issuer.json").write_bytes(key_set(jwk("ES256", "ES256")))
    gateway = GatewayProcess.for_services(
        tmp_path,
        {"web": ([url], [url])},
        env={"GATEWAY_TEST_COHORT": COHORT},
        extra="traffic: {cohort: {secret_env: GATEWAY_TEST_COHORT}}\n"
        "auth:\n"
        f"  partners: {{api_keys: {{keys_file: {tmp_path}/partners.keys}}}}\n"
        f"  users: {{jwt: {{issuer: 'https://id.example/', audience: [blkout],\n"
        f"    jwks_file: {tmp_path}/issuer.json}}}}\n",
    )
    text = gateway.path.read_text()
    text = text.replace(
        "token_env: GATEWAY_TEST_TOKEN}]",
        "token_env: GATEWAY_TEST_TOKEN}, "
        f"{{name: file, role: viewer, token_file: {tmp_path}/token}}]",
    )
    text = text.replace(
        "{path: /, service: web}", "{path: /, service: web, auth: [users, partners]}"
    )
    assert "auth: [users" in text
    gateway.path.write_text(text)
    return gateway, {
        "admin token (env)": TOKEN,
        "admin token (file)": FILE_TOKEN,
        "cohort secret": COHORT,
        "API key": KEY,
        "a wrong API key": OTHER,
        "a wrong admin token": GUESS,
    }


def family(pid: int) -> list[int]:
    found = [pid]
    for child in children_of(pid):
        found += family(child)
    return found


@pytest.mark.slow
def test_no_secret_is_in_a_command_line_a_log_an_answer_or_a_file(tmp_path: Path) -> None:
    with Upstream(always(b"hello")) as web:
        gateway, secrets = configured(tmp_path, web.url)
        with gateway:
            signed = bearer()
            secrets["a token"] = signed
            secrets["a token's signature"] = signed.rpartition(".")[2]
            for credential, status in ((signed, 200), (KEY, 200), (OTHER, 401), (signed[:-9], 401)):
                fields = {"Authorization": f"Bearer {credential}"}
                assert httpx.get(gateway.url, headers=fields).status_code == status
            said = []
            for each in (TOKEN, FILE_TOKEN, GUESS):
                for path in ("/v1/status", "/v1/audit", "/v1/traffic", "/v1/breakers", "/metrics"):
                    answer = gateway.api("GET", path, Authorization=f"Bearer {each}")
                    said.append(json.dumps(answer.body) + str(answer.fields))
            said.append(str(gateway.api("PUT", "/v1/traffic", {"candidate": GUESS}).body))
            # A file that is broken: what is wrong is told, and nothing of what is secret.
            good = gateway.path.read_text()
            gateway.path.write_text(
                good.replace("token_env: GATEWAY_TEST_TOKEN", f"token: {TOKEN}")
            )
            refused = gateway.api("POST", "/v1/config/reload")
            assert refused.status == 422
            (tmp_path / "partners.keys").write_text(f"acme {KEY}\n")
            gateway.path.write_text(good)
            unread = gateway.api("POST", "/v1/config/reload")
            assert unread.status == 422
            said += [json.dumps(refused.body), json.dumps(unread.body)]
            (tmp_path / "partners.keys").write_text(f"acme {HASHED}\n")
            for path in ("/v1/audit", "/v1/status"):
                said.append(json.dumps(gateway.api("GET", path).body))

            lines = {
                pid: Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
                for pid in family(gateway.pid)
            }
            assert len(lines) >= 3  # supervisor, control, worker
            folder = gateway.folder
            log = folder / "access.log"
            wait_until(lambda: log.read_text().count("\n") >= 4, "requests are logged")
            texts = {f"command line of {pid}": line for pid, line in lines.items()}
            texts |= {"access log": log.read_text(), "output": gateway.said()}
            texts |= {f"answer {at}": text for at, text in enumerate(said)}
            assert not found(texts, secrets)

            # On the disk: nothing that anybody else may read, and no secret in clear but where the
            # operator has put it.
            inputs = {"token", "partners.keys", "gateway.yaml", "access.log", "issuer.json"}
            kept = [
                path
                for path in folder.rglob("*")
                if path.is_file()
                and path.name not in inputs
                and path.suffix not in {".pem", ".out"}
            ]
            states = [path for path in kept if path.name.startswith("gateway.db")]
            assert states
            for file in kept:
                # By its own mode, or by its folder's: that of the state is not the gateway's.
                assert private(file) or (file.parent != folder and private(file.parent)), file
            assert private(folder / "run")
            on_disk = {
                str(path): path.read_bytes().decode("latin-1")
                for path in kept
                if path.stat().st_size < 50_000_000
            }
            # The cohort's secret is in the snapshot that outlives control: private, as above.
            held = {name: secret for name, secret in secrets.items() if name != "cohort secret"}
            assert not found(on_disk, held)


def private(path: Path) -> bool:
    """Tell whether nobody but its owner gets at it."""
    return path.stat().st_mode & 0o077 == 0


def found(texts: dict[str, str], secrets: dict[str, str]) -> list[str]:
    """Return where a secret is, in clear or as the digest that stands for it."""
    said = []
    for where, text in texts.items():
        for what, secret in secrets.items():
            digest = hashlib.sha256(secret.encode()).hexdigest()
            if secret in text or (not where.startswith("/") and digest in text):
                said.append(f"{what} in {where}")
    return said


def test_a_secret_would_be_found() -> None:
    assert found({"here": f"x{TOKEN}y"}, {"t": TOKEN}) == ["t in here"]
    assert found({"here": hashlib.sha256(b"ab").hexdigest()}, {"t": "ab"}) == ["t in here"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("token_env: GATEWAY_TEST_TOKEN", f"token: {TOKEN}"),
        ("token_env: GATEWAY_TEST_TOKEN", f"token_env: {TOKEN}"),
        ("secret_env: GATEWAY_TEST_COHORT", f"secret: {COHORT}"),
        ("secret_env: GATEWAY_TEST_COHORT", f"secret_env: {COHORT}"),
        ("keys_file:", f"keys: [{{name: acme, hash: {KEY}}}], keys_file:"),
        ("keys_file:", f"keys: [{{name: acme, key: {KEY}}}], keys_file:"),
        ("name: test,", f"name: test, token: '{TOKEN}',"),
    ],
)
def test_a_secret_that_stands_in_the_wrong_place_is_not_repeated(
    tmp_path: Path, old: str, new: str
) -> None:
    gateway, secrets = configured(tmp_path, "http://127.0.0.1:1")
    text = gateway.path.read_text()
    assert old in text
    gateway.path.write_text(text.replace(old, new, 1))
    for verb in ("check", "run"):
        done = subprocess.run(
            [sys.executable, "-m", "gateway", verb, "--config", str(gateway.path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=tmp_path,
            env={**os.environ, **gateway.env, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode != 0, verb
        assert not found({"errors": done.stdout + done.stderr}, secrets), done.stdout + done.stderr
