"""What browsers are told and what they tell, with real processes."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

from tests.support.gateway import GatewayProcess
from tests.support.processes import wait_until
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
