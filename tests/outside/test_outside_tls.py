"""Tools that others judge TLS by, and an ACME client of somebody else's.

testssl.sh and sslscan from Debian look at a TLS listener; lego asks Pebble (an ACME authority for
tests) for a certificate by a challenge that the gateway answers, and the gateway serves with it.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509

from gateway.demo.ports import free_ports
from tests.support.certificates import Authority
from tests.support.gateway import GatewayProcess
from tests.support.processes import need, start, wait_until
from tests.support.upstream import Upstream, always

pytestmark = pytest.mark.outside

#: All that testssl.sh looks at takes a minute and a half; protocols and what is known to break
#: them a third of it. `make outside` has the whole.
WHOLE = os.environ.get("OUTSIDE") == "whole"

AUTHORITY = Authority()
NAME = "site.example"

#: What testssl.sh says of the test's own authority, certificate and host, not of how TLS is spoken.
NOT_OURS = {
    "cert_chain_of_trust",
    "cert_caIssuers",
    "cert_revocation",
    "cert_crlDistributionPoints",
    "cert_ocspURL",
    "OCSP_stapling",
    "DNS_CAArecord",
    "cert_validityPeriod",
    "cert_extlifeSpan",
    "cert_commonName",
    "cert_trust",
    "engine_problem",
    "overall_grade",
}


@contextmanager
def serving(folder: Path) -> Iterator[tuple[GatewayProcess, int]]:
    """Run a gateway with a plain and a TLS listener; yield it and the latter's port."""
    plain, port, admin = free_ports(3)
    if not (folder / "site.pem").exists():
        AUTHORITY.make(NAME, "localhost", "127.0.0.1").write(folder)
    if not (folder / "other.pem").exists():
        AUTHORITY.make("other.example", "*.other.example").write(folder, "other")
    (folder / "ca.pem").write_bytes(AUTHORITY.pem)
    (folder / "webroot").mkdir(exist_ok=True)
    with Upstream(always(b"ok")) as up:
        gateway = GatewayProcess(
            f"""version: 1
listen:
  - {{address: "127.0.0.1:{plain}", redirect_to_https: {{port: {port}}}}}
  - address: "127.0.0.1:{port}"
    tls:
      certificates:
        - {{certificate: {folder}/site.pem, key: {folder}/site.key}}
        - {{certificate: {folder}/other.pem, key: {folder}/other.key}}
acme: {{folder: {folder}/webroot/.well-known/acme-challenge}}
state: {{path: {folder}/gateway.db}}
access_log: {folder}/access.log
admin:
  address: 127.0.0.1:{admin}
  tokens: [{{name: test, role: admin, token_env: GATEWAY_TEST_TOKEN}}]
services: {{web: {{blue: {{endpoints: ["{up.url}"]}}}}}}
routes: [{{path: /, service: web, security: page}}]
security: {{profiles: {{page: {{hsts: 365d}}}}}}
""",
            folder,
            port=plain,
            admin=admin,
        )
        with gateway:
            yield gateway, port


@pytest.mark.timeout(600)
def test_testssl_finds_nothing_above_low(tmp_path: Path) -> None:
    testssl = need("testssl")
    with serving(tmp_path) as (_, port):
        found = tmp_path / "found.json"
        command = [testssl, "--quiet", "--color", "0", "--warnings", "batch", "--nodns", "none"]
        command += [] if WHOLE else ["--protocols", "--vulnerable"]
        command += ["--ip", "127.0.0.1", "--jsonfile", str(found), f"localhost:{port}"]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=540, check=False, cwd=tmp_path
        )
        assert found.exists(), done.stdout[-2000:] + done.stderr[-2000:]
    rows = json.loads(found.read_text())
    assert len(rows) > (50 if WHOLE else 15), "it has looked"
    assert {"TLS1_2", "TLS1_3"} <= {row["id"] for row in rows}
    above = [
        f"{row['id']}: {row['severity']} {row['finding']}"
        for row in rows
        if row["severity"] in {"MEDIUM", "HIGH", "CRITICAL", "FATAL"}
        and row["id"].split(" ")[0] not in NOT_OURS
    ]
    assert above == []


def test_openssl_gets_the_certificate_for_the_name_it_asks_for(tmp_path: Path) -> None:
    openssl = need("openssl")
    with serving(tmp_path) as (_, port):
        command = [openssl, "s_client", "-connect", f"127.0.0.1:{port}"]
        command += ["-CAfile", str(tmp_path / "ca.pem")]

        def said(*options: str) -> tuple[int, str]:
            done = subprocess.run(
                [*command, *options],
                capture_output=True,
                text=True,
                timeout=20,
                check=False,
                stdin=subprocess.DEVNULL,
            )
            return done.returncode, done.stdout + done.stderr

        for name, verified in (
            ("other.example", "other.example"),
            ("www.other.example", "*.other.example"),
            (NAME, NAME),
            ("nobody.example", "localhost"),  # the first one answers
            ("a.b.other.example", "localhost"),
            ("", "localhost"),
        ):
            asked = ["-servername", name] if name else ["-noservername"]
            host = verified.replace("*", "www")
            code, text = said(*asked, "-verify_hostname", host, "-verify_return_error")
            assert code == 0, text
            assert f"Verified peername: {verified}" in text, text
        for old in ("-tls1", "-tls1_1"):
            code, text = said(old, "-cipher", "ALL:@SECLEVEL=0")
            assert code != 0
            assert "Cipher is (NONE)" in text, text
        code, text = said(
            "-tls1_2", "-cipher", "AES128-GCM-SHA256:AES256-SHA:ECDHE-ECDSA-AES128-SHA"
        )
        assert "Cipher is (NONE)" in text, text
        for offered, chosen in (
            ("h2,http/1.1", "ALPN protocol: http/1.1"),
            ("h2", "No ALPN negotiated"),
        ):
            assert chosen in said("-alpn", offered)[1]


def test_curl_is_led_to_https_with_its_method_and_its_query(tmp_path: Path) -> None:
    curl = need("curl")
    with serving(tmp_path) as (gateway, port):
        command = [curl, "-sS", "--max-time", "20", "--cacert", str(tmp_path / "ca.pem")]
        command += [part for each in (gateway.port, port)
                    for part in ("--resolve", f"{NAME}:{each}:127.0.0.1")]  # fmt: skip
        command += ["-o", str(tmp_path / "body"), "-w", "%{http_code} %{method} %{url_effective}"]

        def said(*options: str) -> str:
            done = subprocess.run(
                [*command, *options], capture_output=True, text=True, timeout=30, check=False
            )
            return done.stdout or done.stderr

        plain, secure = f"http://{NAME}:{gateway.port}", f"https://{NAME}:{port}"
        assert said("-L", f"{plain}/a%20b?q=%2F") == f"200 GET {secure}/a%20b?q=%2F"
        assert said("-L", "-d", "x=1", f"{plain}/form") == f"200 POST {secure}/form"
        assert said(f"{plain}/form") == f"308 GET {plain}/form"
        # A challenge is answered where the authority asks, on both.
        folder = tmp_path / "webroot" / ".well-known" / "acme-challenge"
        folder.mkdir(parents=True)
        (folder / "token").write_bytes(b"token.digest")
        for base in (plain, secure):
            url = f"{base}/.well-known/acme-challenge/token"
            assert said(url) == f"200 GET {url}"
            assert (tmp_path / "body").read_bytes() == b"token.digest"
        # Whoever speaks plain HTTP to the TLS port is told so.
        assert said(f"http://{NAME}:{port}/").startswith("400 ")
        assert b"plain HTTP where https is spoken" in (tmp_path / "body").read_bytes()


def test_sslscan_sees_two_versions_and_nothing_weak(tmp_path: Path) -> None:
    sslscan = need("sslscan")
    with serving(tmp_path) as (_, port):
        done = subprocess.run(
            [sslscan, "--no-colour", f"127.0.0.1:{port}"],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    said = done.stdout
    for version in ("SSLv2", "SSLv3", "TLSv1.0", "TLSv1.1"):
        assert f"{version:8}  disabled" in said, said
    for version in ("TLSv1.2", "TLSv1.3"):
        assert f"{version:8}  enabled" in said, said
    accepted = [line.split()[4] for line in said.splitlines() if line.startswith(("Acc", "Pref"))]
    assert accepted
    assert all("GCM" in each or "CHACHA20" in each for each in accepted), accepted
    assert "x25519" in said
    assert "ffdhe" not in said, "a client's packet would cost a tenth of a second"
    assert "vulnerable" not in said.replace("not vulnerable", "")


def test_a_client_of_somebody_elses_renews_the_certificate(tmp_path: Path) -> None:
    pebble, lego, dns = need("pebble"), need("lego"), need("pebble-challtestsrv")
    directory, management, names, control = free_ports(4)
    AUTHORITY.make("127.0.0.1", "localhost").write(tmp_path, "pebble")
    with serving(tmp_path) as (gateway, port):
        (tmp_path / "pebble.json").write_text(
            json.dumps(
                {
                    "pebble": {
                        "listenAddress": f"127.0.0.1:{directory}",
                        "managementListenAddress": f"127.0.0.1:{management}",
                        "certificate": str(tmp_path / "pebble.pem"),
                        "privateKey": str(tmp_path / "pebble.key"),
                        "httpPort": gateway.port,
                        "tlsPort": port,
                    }
                }
            )
        )
        resolver = start(
            "dns",
            [dns, "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dns01", f"127.0.0.1:{names}",
             "-http01", "", "-https01", "", "-tlsalpn01", "", "-management", f":{control}"],
            tmp_path,
            {},
        )  # fmt: skip
        authority = start(
            "pebble",
            [pebble, "-config", tmp_path / "pebble.json", "-dnsserver", f"127.0.0.1:{names}"],
            tmp_path,
            {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"},
        )
        try:
            command = [lego, "--server", f"https://127.0.0.1:{directory}/dir", "--accept-tos"]
            command += ["--email", "ops@site.example", "--domains", NAME, "--http"]
            command += ["--http.webroot", str(tmp_path / "webroot"), "--path", str(tmp_path / "l")]

            def issued() -> bool:
                done = subprocess.run(
                    [*command, "run"],
                    capture_output=True,
                    text=True,
                    timeout=60,
                    check=False,
                    env={**os.environ, "LEGO_CA_CERTIFICATES": str(tmp_path / "ca.pem")},
                )
                (tmp_path / "lego.log").write_text(done.stdout + done.stderr)
                return done.returncode == 0

            deadline = time.monotonic() + 60
            while not issued():
                assert time.monotonic() < deadline, (tmp_path / "lego.log").read_text()
                time.sleep(0.5)
        finally:
            authority.stop()
            resolver.stop()
        made = tmp_path / "l" / "certificates"
        octets = (made / f"{NAME}.crt").read_bytes()
        # As a client's hook would: each file by itself, with a moment between them.
        (tmp_path / "site.pem").write_bytes(octets)
        (tmp_path / "site.key").write_bytes((made / f"{NAME}.key").read_bytes())
        wanted = x509.load_pem_x509_certificates(octets)[0]

        def renewed() -> bool:
            told = ssl.get_server_certificate(("127.0.0.1", port))
            return x509.load_pem_x509_certificate(told.encode()) == wanted

        wait_until(renewed, "the new certificate is served", 20)
