"""What browsers are told and what they tell, with real processes."""

from __future__ import annotations

import gzip
import json
import re
import ssl
import urllib.request
from email.message import Message
from pathlib import Path

from gateway.config.schema.security import LEAKING
from gateway.demo.ports import free_ports
from tests.support.gateway import GatewayProcess
from tests.support.processes import wait_until
from tests.support.selfsigned import write_certificate
from tests.support.upstream import Upstream, always

SECURITY = """\
security:
  csp_reports: {}
  profiles: {page: {csp: "script-src 'nonce-{nonce}'"}}
  cors: {default: app, profiles: {app: {origins: ["https://app.example"]}}}
"""
REPORTS = "/.well-known/gateway/csp-reports"


def test_a_page_is_dressed_and_its_violations_are_counted(tmp_path: Path) -> None:
    script = always(b"<p>", "Content-Type: text/html\r\nServer: leaky\r\n")
    with Upstream(script) as upstream:
        gateway = GatewayProcess.for_services(
            tmp_path, {"web": ([upstream.url], [])}, workers=2, extra=SECURITY
        )
        text = gateway.path.read_text()
        gateway.path.write_text(text.replace("service: web}", "service: web, security: page}"))
        with gateway:
            asked = urllib.request.Request(gateway.url, headers={"Origin": "https://app.example"})
            with urllib.request.urlopen(asked, timeout=10) as answer:
                fields = answer.headers
            assert fields["Server"] is None
            assert fields["Access-Control-Allow-Origin"] == "https://app.example"
            assert f"report-uri {REPORTS}" in fields["Content-Security-Policy"]
            assert "{nonce}" not in fields["Content-Security-Policy"]
            report = {"document-uri": f"{gateway.url}/p", "effective-directive": "img-src"}
            told = urllib.request.Request(
                gateway.url + REPORTS,
                data=json.dumps({"csp-report": report}).encode(),
                headers={"Content-Type": "application/csp-report"},
            )
            with urllib.request.urlopen(told, timeout=10) as answer:
                assert answer.status == 204
            line = (
                'gateway_csp_violations_total{color="blue",directive="img-src",service="web"} 1.0'
            )

            def counted() -> bool:
                with urllib.request.urlopen(f"{gateway.admin_url}/metrics", timeout=10) as page:
                    return line in page.read().decode()

            wait_until(counted, "the violation is counted")


FIRST_DAY = """version: 1
listen:
  - {{address: "127.0.0.1:{port}"}}
  - address: "127.0.0.1:{tls}"
    tls: {{certificates: [{{certificate: {folder}/site.pem, key: {folder}/site.key}}]}}
state: {{path: {folder}/gateway.db}}
access_log: {folder}/access.log
admin:
  address: 127.0.0.1:{admin}
  tokens: [{{name: test, role: admin, token_env: GATEWAY_TEST_TOKEN}}]
services: {{web: {{blue: {{endpoints: ["{up}"]}}}}}}
routes: [{{path: /, service: web, security: page}}]
"""


def test_the_first_day_locks_nobody_out(tmp_path: Path) -> None:
    port, tls, admin = free_ports(3)
    write_certificate(tmp_path / "site.pem", tmp_path / "site.key")
    trust = ssl.create_default_context(cafile=tmp_path / "site.pem")
    leaky = "".join(f"{name}: leaky\r\n" for name in LEAKING)
    with Upstream(always(b"ok", leaky)) as upstream:
        text = FIRST_DAY.format(port=port, tls=tls, admin=admin, folder=tmp_path, up=upstream.url)
        with GatewayProcess(text, tmp_path, port=port, admin=admin) as gateway:
            with urllib.request.urlopen(gateway.url, timeout=10) as answer:
                plain = answer.headers
            secured = f"https://localhost:{tls}/"
            with urllib.request.urlopen(secured, timeout=10, context=trust) as answer:
                fields = answer.headers
    assert plain["Strict-Transport-Security"] is None
    assert fields["Strict-Transport-Security"] == "max-age=300"
    for each in (plain, fields):
        assert each["Content-Security-Policy"] is None
        assert each["Content-Security-Policy-Report-Only"] == "default-src 'self'"
        assert each["X-Frame-Options"] == "DENY"
        assert each["X-Content-Type-Options"] == "nosniff"
        assert each["Referrer-Policy"] == "strict-origin-when-cross-origin"
        assert each["Permissions-Policy"] == "geolocation=()"
        assert not set(each) & set(LEAKING)


STRICT = """\
security:
  profiles:
    page:
      csp: "script-src 'nonce-{nonce}'"
      csp_report_only: "default-src 'none'"
      opener: same-origin
      resource: same-site
      embedder: require-corp
      override: [csp, frame]
  cors:
    default: app
    profiles:
      app:
        origins: ["https://app.example", "https://*.example.org"]
        credentials: true
        methods: [PUT]
        max_age: 1h
"""


def test_fields_origins_and_compressed_pages(tmp_path: Path) -> None:
    packed = gzip.compress(b"<script nonce=x></script>")
    own = "Content-Type: text/html\r\nContent-Encoding: gzip\r\nX-Frame-Options: SAMEORIGIN\r\n"
    own += "Content-Security-Policy: script-src *\r\nReferrer-Policy: no-referrer\r\n"
    with Upstream(always(packed, own)) as upstream:
        gateway = GatewayProcess.for_services(
            tmp_path, {"web": ([upstream.url], [])}, workers=1, extra=STRICT
        )
        text = gateway.path.read_text()
        gateway.path.write_text(text.replace("service: web}", "service: web, security: page}"))
        with gateway:
            seen, bodies = [], []
            for _ in range(2):
                with urllib.request.urlopen(gateway.url, timeout=10) as answer:
                    seen.append(answer.headers)
                    bodies.append(answer.read())
            preflights = {
                origin: _preflight(gateway.url, origin)
                for origin in (
                    "https://app.example",
                    "https://a.b.example.org",
                    "https://example.org",
                    "https://a.example.org.attacker.com",
                    "https://evilexample.org",
                    "http://a.example.org",
                    "null",
                )
            }
    # Nothing is unpacked: the page is the backend's to the octet, the number in the field alone.
    assert bodies == [packed, packed]
    policies = {each["Content-Security-Policy"] for each in seen}
    assert len(policies) == 2
    assert all(re.fullmatch(r"script-src 'nonce-[0-9a-f]{32}'", each) for each in policies)
    for each in seen:
        assert each["Cache-Control"] == "no-store"
        assert each["Content-Security-Policy-Report-Only"] == "default-src 'none'"
        assert (each["X-Frame-Options"], each["Referrer-Policy"]) == ("DENY", "no-referrer")
        assert each["Cross-Origin-Opener-Policy"] == "same-origin"
        assert each["Cross-Origin-Resource-Policy"] == "same-site"
        assert each["Cross-Origin-Embedder-Policy"] == "require-corp"
    allowed = [origin for origin, told in preflights.items() if told[ALLOW_ORIGIN] is not None]
    assert allowed == ["https://app.example", "https://a.b.example.org"]
    for origin, told in preflights.items():
        assert "Origin" in told["Vary"]
        if origin in allowed:
            assert told[ALLOW_ORIGIN] == origin
            assert told["Access-Control-Max-Age"] == "3600"
            assert told["Access-Control-Allow-Methods"] == "PUT"
            assert told["Access-Control-Allow-Credentials"] == "true"


ALLOW_ORIGIN = "Access-Control-Allow-Origin"


def _preflight(url: str, origin: str) -> Message:
    fields = {"Origin": origin, "Access-Control-Request-Method": "PUT"}
    asked = urllib.request.Request(url, headers=fields, method="OPTIONS")
    with urllib.request.urlopen(asked, timeout=10) as answer:
        assert answer.status == 204
        found: Message = answer.headers
        return found
