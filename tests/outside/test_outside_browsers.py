"""Mozilla's HTTP observatory and Google's CSP evaluator on the strict profiles of the docs.

The gateway ends TLS itself and sends plain requests to https. ``make browsersuite`` installs the
two.
"""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.demo.ports import free_ports
from tests.support.gateway import GatewayProcess, config_for
from tests.support.processes import ROOT, need
from tests.support.selfsigned import write_certificate

pytestmark = [pytest.mark.outside, pytest.mark.slow, pytest.mark.timeout(120)]

HERE = Path(__file__).parent
PAGE = (ROOT / "docs" / "security-fields.md").read_text(encoding="utf-8")

LISTEN = """
listen:
  - {{address: "127.0.0.1:{port}"}}
  - {{address: "127.0.0.1:{plain}", redirect_to_https: {{port: {tls}}}}}
  - address: "127.0.0.1:{tls}"
    tls: {{certificates: [{{certificate: {folder}/site.pem, key: {folder}/site.key}}]}}
"""

DOCUMENT = (
    b"<!doctype html><html lang=en><head><title>a</title><script src=/a.js></script>"
    b"<link rel=stylesheet href=/a.css></head><body>a</body></html>"
)


class Site(http.server.BaseHTTPRequestHandler):
    """A backend that says more of itself than it should."""

    server_version = "Leaky/1.2.3"

    def do_GET(self) -> None:
        """Answer with the page."""
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(DOCUMENT)))
        self.send_header("X-Powered-By", "luck")
        self.end_headers()
        self.wfile.write(DOCUMENT)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing."""


@contextmanager
def site() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def documented() -> str:
    """Return the docs' strict profiles, a whole ``security`` section."""
    found: list[str] = re.findall(r"```yaml\n(security:\n.*?)```", PAGE, re.DOTALL)
    return next(text for text in found if "strict:" in text)


@dataclass(frozen=True, slots=True)
class Opinion:
    """What the two say."""

    grade: str
    score: int
    tests: dict[str, tuple[bool, str, int]]
    policy: str
    findings: list[tuple[str, str, str]]


def packages() -> Path:
    """Return where the two are installed; skip, saying so, where they are not."""
    need("node")
    found = ROOT / ".make" / "browsersuite"
    if not (found / ".made").is_file():
        pytest.skip(
            "npm's HTTP observatory and csp_evaluator are not installed (make browsersuite)"
        )
    return found / "node_modules"


def opinion_of(profile: str, folder: Path) -> Opinion:
    """Serve a page with one of the documented profiles and have it judged."""
    node = packages()
    plain, tls, port, admin = free_ports(4)
    write_certificate(folder / "site.pem", folder / "site.key")
    with ExitStack() as stack:
        backend = stack.enter_context(site())
        text = config_for(
            {"web": ([f"http://127.0.0.1:{backend}"], [])},
            port=port,
            admin=admin,
            folder=folder,
            extra=documented(),
        ).replace("service: web}", f"service: web, security: {profile}}}")
        listen = LISTEN.format(port=port, plain=plain, tls=tls, folder=folder)
        text = re.sub(r"\nlisten: .*\n", lambda _: listen, text, count=1)
        stack.enter_context(GatewayProcess(text, folder, port=port, admin=admin))
        said = subprocess.run(
            ["node", HERE / "browser_suite.mjs", node, "localhost", str(plain), str(tls)],
            env={**os.environ, "NODE_EXTRA_CA_CERTS": str(folder / "site.pem")},
            capture_output=True,
            timeout=60,
            check=False,
        )
    assert said.returncode == 0, said.stderr.decode()
    told: dict[str, Any] = json.loads(said.stdout)
    return Opinion(**told)


@pytest.mark.parametrize("profile", ["strict", "strict_nonce"])
def test_the_strict_profiles_are_as_good_as_can_be(profile: str, tmp_path: Path) -> None:
    opinion = opinion_of(profile, tmp_path)
    failed = {name: result for name, result in opinion.tests.items() if not result[0]}
    assert not failed
    assert opinion.grade == "A+", opinion
    assert opinion.policy
    assert [each for each in opinion.findings if each[0] in {"HIGH", "SYNTAX"}] == []
