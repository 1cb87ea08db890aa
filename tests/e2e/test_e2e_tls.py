"""TLS through the real command: renewal by files, the admin address, what an operator is told."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from gateway.demo.ports import free_ports
from tests.support.certificates import Authority, Made
from tests.support.gateway import TOKEN, GatewayProcess
from tests.support.processes import ROOT, wait_until
from tests.support.upstream import Upstream, always

AUTHORITY = Authority()


def expiry(port: int) -> float:
    """Return until when the certificate that a new connection gets is valid."""
    connection = http.client.HTTPSConnection(
        "127.0.0.1", port, timeout=10, context=AUTHORITY.client()
    )
    connection.connect()
    octets = connection.sock.getpeercert(binary_form=True)
    connection.close()
    assert isinstance(octets, bytes)
    return x509.load_der_x509_certificate(octets).not_valid_after_utc.timestamp()


class SecuredProcess(GatewayProcess):
    """One whose admin API is asked over TLS."""

    ready: Callable[[], bool]

    def is_ready(self) -> bool:
        return self.ready()


class Secured:
    """A gateway with a plain and a TLS listener, its admin API over TLS, callers certified."""

    def __init__(self, folder: Path, up: Upstream, *, own: bool = False) -> None:
        """With ``own`` the admin API has a pair of its own."""
        self.folder = folder
        self.plain, self.port, self.admin, self.open = free_ports(4)
        self.install(AUTHORITY.make("127.0.0.1", "site.example", days=5))
        self.install(AUTHORITY.make("127.0.0.1", days=70), "own")
        caller = AUTHORITY.make("pipeline", client=True).write(folder / "caller")
        (folder / "ca.pem").write_bytes(AUTHORITY.pem)
        self.caller = AUTHORITY.client()
        self.caller.load_cert_chain(*caller)
        pair, admin_pair = (
            f"{{certificate: {folder}/{name}/site.pem, key: {folder}/{name}/site.key}}"
            for name in ("live", "own" if own else "live")
        )
        self.process = SecuredProcess(
            f"""version: 1
listen:
  - {{address: "127.0.0.1:{self.plain}", redirect_to_https: {{port: {self.port}}}}}
  - {{address: "127.0.0.1:{self.port}", tls: {{certificates: [{pair}]}}}}
  - {{address: "127.0.0.1:{self.open}"}}
workers: 2
state: {{path: {folder}/gateway.db}}
access_log: {folder}/access.log
admin:
  address: 127.0.0.1:{self.admin}
  tls: {{certificates: [{admin_pair}], client_ca: {folder}/ca.pem}}
  tokens: [{{name: test, role: admin, token_env: GATEWAY_TEST_TOKEN}}]
  hosts: [gateway.internal]
services: {{web: {{blue: {{endpoints: ["{up.url}"]}}, green: {{endpoints: ["{up.url}"]}}}}}}
routes: [{{path: /, service: web, security: page}}]
security: {{profiles: {{page: {{}}}}}}
""",
            folder,
            port=self.plain,
            admin=self.admin,
        )
        self.process.ready = self.ready

    def install(self, made: Made, place: str = "live") -> None:
        """Put a pair in place as certbot does: a new folder, and a link moved to it."""
        folder = self.folder / f"archive-{time.time_ns()}"
        made.write(folder)
        (self.folder / "next").symlink_to(folder)
        (self.folder / "next").rename(self.folder / place)

    def ask(
        self, path: str, method: str = "GET", host: str = "127.0.0.1", **body: object
    ) -> tuple[int, bytes]:
        """Call the admin API."""
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.admin, timeout=10, context=self.caller
        )
        fields = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        fields["Host"] = f"{host}:{self.admin}"
        connection.request(method, path, json.dumps(body) if body else None, fields)
        answer = connection.getresponse()
        found = answer.status, answer.read()
        connection.close()
        return found

    def processes(self, role: str) -> set[int]:
        """Return the ids of the processes of a role that live now."""
        rows = json.loads(self.ask("/v1/status")[1])["processes"]
        return {each["pid"] for each in rows if each["role"] == role}

    def ready(self) -> bool:
        try:
            return self.ask("/readyz")[0] == 200
        except OSError:
            return False


def test_a_certificate_s_life(tmp_path: Path) -> None:
    with Upstream(always(b"ok")) as up, contextlib.ExitStack() as stack:
        secured = Secured(tmp_path, up)
        stack.enter_context(secured.process)
        site = http.client.HTTPSConnection(
            "127.0.0.1", secured.port, timeout=10, context=AUTHORITY.client()
        )

        def served() -> http.client.HTTPResponse:
            site.request("GET", "/")
            answer = site.getresponse()
            assert (answer.status, answer.read()) == (200, b"ok")
            return answer

        assert served().getheader("Strict-Transport-Security") == "max-age=300"
        plain = http.client.HTTPConnection("127.0.0.1", secured.plain, timeout=10)
        plain.request("GET", "/a?b")
        moved = plain.getresponse()
        assert moved.status == 308
        assert moved.getheader("Location") == f"https://127.0.0.1:{secured.port}/a?b"
        plain.close()

        # A certificate that ends in five days is told of.
        warnings = json.loads(secured.ask("/v1/status")[1])["warnings"]
        assert len([line for line in warnings if "expires in 5.0 days" in line]) == 2, warnings
        metrics = secured.ask("/metrics")[1].decode()
        name = "gateway_certificate_expiry_timestamp_seconds"
        assert f'{name}{{certificate="listen[1].tls.certificates[0]"}}' in metrics
        assert "PRIVATE" not in metrics

        # Without a certificate of its own a caller gets nowhere.
        nobody = http.client.HTTPSConnection(
            "127.0.0.1", secured.admin, timeout=10, context=AUTHORITY.client()
        )
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
            refused(nobody)
        nobody.close()

        # The command line has one, and the names that it may call the gateway by are few.
        done = verb(secured, "status", "--client-cert", "caller/site.pem")
        assert done.returncode == 2, "its key is in another file"
        done = verb(
            secured, "status", "--client-cert", "caller/site.pem", "--client-key", "caller/site.key"
        )
        assert done.returncode == 0, done.stderr
        assert "expires in 5.0 days" in done.stdout + done.stderr
        done = verb(secured, "status")
        assert done.returncode == 3
        assert "see --client-cert" in done.stderr
        for host, status in (("gateway.internal", 200), ("evil.example", 421)):
            assert secured.ask("/readyz", host=host)[0] == status

        # A pair that does not fit is not taken, and told of; a reload is refused for it.
        before = expiry(secured.port)
        good = AUTHORITY.make("127.0.0.1", "site.example")
        secured.install(Made(good.certificate, AUTHORITY.make("x").key))
        wait_until(lambda: b"does not fit" in secured.ask("/v1/status")[1], "trouble told", 15)
        assert expiry(secured.port) == before
        assert secured.ask("/v1/config/reload", "POST")[0] == 422
        # Workers and control that start now have the pair in force.
        for pid in secured.processes("worker"):
            os.kill(pid, 9)
        wait_until(secured.ready, "ready again", 20)
        assert expiry(secured.port) == before

        # One that fits is served by all workers and by the admin API; nothing is dropped.
        site.close()
        served()
        secured.install(good)
        wait_until(lambda: {expiry(secured.port) for _ in range(8)} != {before}, "renewed", 15)
        wait_until(lambda: before not in {expiry(secured.port) for _ in range(8)}, "by all", 15)
        wait_until(lambda: expiry_of_admin(secured) != before, "admin renewed", 15)
        served()  # on the connection from before
        site.close()
        assert b"does not fit" not in secured.ask("/v1/status")[1]
        assert b"PRIVATE KEY" not in (tmp_path / "access.log").read_bytes()


def test_files_that_break_end_no_process(tmp_path: Path) -> None:
    """Neither a listener's nor the admin API's own: whoever starts again has what was in force."""
    with Upstream(always(b"ok")) as up, contextlib.ExitStack() as stack:
        secured = Secured(tmp_path, up, own=True)
        stack.enter_context(secured.process)
        before, admin_before = expiry(secured.port), expiry_of_admin(secured)
        assert before != admin_before
        for place in ("live", "own"):
            secured.install(Made(AUTHORITY.make("127.0.0.1").certificate, b"half a ke"), place)
        # And the authorities of the admin API's callers: somebody's key was copied there.
        (tmp_path / "ca.pem").write_bytes(AUTHORITY.make("x").key)
        wait_until(
            lambda: len(json.loads(secured.ask("/v1/status")[1])["warnings"]) >= 3,
            "trouble told",
            15,
        )
        for role in ("control", "worker", "control"):
            was = secured.processes(role)
            for pid in was:
                os.kill(pid, 9)

            def replaced(role: str = role, was: set[int] = was) -> bool:
                return secured.ready() and not was & secured.processes(role)

            wait_until(replaced, f"a new {role}", 20)
            assert {expiry(secured.port) for _ in range(8)} == {before}
            assert expiry_of_admin(secured) == admin_before
        # Half-way by hand: a reload is refused, and a whole one is served everywhere.
        assert secured.ask("/v1/config/reload", "POST")[0] == 422
        for place in ("live", "own"):
            secured.install(AUTHORITY.make("127.0.0.1", days=80), place)
        wait_until(lambda: before not in {expiry(secured.port) for _ in range(8)}, "renewed", 15)
        wait_until(lambda: expiry_of_admin(secured) != admin_before, "admin renewed", 15)
        kept = list(tmp_path.glob("**/snapshot-*.bin*"))
        assert {each.stat().st_mode & 0o777 for each in kept} == {0o600}
        assert any(each.name.endswith(".admin") for each in kept)
        said = secured.process.said()
        assert "PRIVATE" not in said
        assert "admin.tls.client_ca: OpenSSL does not take these authorities" in said


def test_what_is_said_over_tls_and_not_without(tmp_path: Path) -> None:
    """The cohort's cookie, HSTS, and what a backend is told; the same visit on both listeners."""
    with Upstream(always(b"ok")) as up, contextlib.ExitStack() as stack:
        secured = Secured(tmp_path, up)
        stack.enter_context(secured.process)

        def split() -> bool:
            return secured.ask("/v1/traffic", "PUT", candidate=50)[0] == 200

        wait_until(split, "a split", 15)
        found = {}
        for scheme, connection in (
            ("http", http.client.HTTPConnection("127.0.0.1", secured.open, timeout=10)),
            (
                "https",
                http.client.HTTPSConnection(
                    "127.0.0.1", secured.port, timeout=10, context=AUTHORITY.client()
                ),
            ),
        ):
            connection.request("GET", "/", headers={"Accept": "text/html", "X-Visit": scheme})
            answer = connection.getresponse()
            assert answer.status == 200
            answer.read()
            found[scheme] = answer
            connection.close()
            [head] = [each for each in up.heads if b"x-visit: " + scheme.encode() in each.lower()]
            assert b"\r\nx-forwarded-proto: " + scheme.encode() + b"\r\n" in head.lower()
        cookies = {name: each.getheader("Set-Cookie") or "" for name, each in found.items()}
        assert all(each.startswith("gw_cohort=") for each in cookies.values()), cookies
        assert "; Secure" in cookies["https"]
        assert "; Secure" not in cookies["http"]
        assert found["https"].getheader("Strict-Transport-Security") == "max-age=300"
        assert found["http"].getheader("Strict-Transport-Security") is None


def verb(secured: Secured, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a verb of the command line against the admin API."""
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        cwd=secured.folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "GATEWAY_ADMIN": f"https://127.0.0.1:{secured.admin}",
            "GATEWAY_CA": "ca.pem",
            "GATEWAY_TOKEN": TOKEN,
        },
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def refused(connection: http.client.HTTPSConnection) -> None:
    """Ask, and read: in TLS 1.3 a client hears only then that its certificate is missing."""
    connection.request("GET", "/readyz")
    connection.getresponse()


def expiry_of_admin(secured: Secured) -> float:
    """Return until when the admin API's certificate is valid."""
    connection = http.client.HTTPSConnection(
        "127.0.0.1", secured.admin, timeout=10, context=secured.caller
    )
    connection.connect()
    octets = connection.sock.getpeercert(binary_form=True)
    connection.close()
    assert isinstance(octets, bytes)
    return x509.load_der_x509_certificate(octets).not_valid_after_utc.timestamp()
