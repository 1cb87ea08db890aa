"""``python -m loadtests.tls``: what TLS costs, the gateway beside nginx, in one run.

Three figures each, in processor time of the proxy's own processes: a request on a kept-alive
connection; a connection with a TLS 1.3 handshake (ECDSA P-256, in full: wrk resumes nothing) and
one request; and the same connection without TLS, so that the difference is the handshake. Rounds
are interleaved, medians are printed with their spread.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from gateway.demo.ports import free_ports
from loadtests import measure, targets
from loadtests.processes import Child, ToolError
from loadtests.targets import Place, gateway_workers, program, whole_family

#: What is measured: over TLS or not, kept alive or closed after each answer.
KINDS = {
    "kept": (True, False),
    "plain kept": (False, False),
    "closed": (True, True),
    "plain closed": (False, True),
}
#: The bars: kept-alive requests, and handshakes, against nginx.
KEPT_BAR, HANDSHAKE_BAR = 1.3, 1.5


@dataclass(slots=True)
class Side:
    """One proxy under test; ``us`` by kind, microseconds of processor time each."""

    name: str
    child: Child
    ports: tuple[int, int]
    workers: Callable[[Child], list[int]]
    us: dict[str, list[float]] = field(default_factory=dict)
    rates: dict[str, list[float]] = field(default_factory=dict)

    def round(self, kind: str, seconds: float, connections: int) -> None:
        """Run wrk once."""
        secure, closed = KINDS[kind]
        done = measure.wrk_round(
            self.ports[1] if secure else self.ports[0],
            seconds,
            connections,
            self.workers(self.child),
            [],
            scheme="https" if secure else "http",
            closed=closed,
        )
        self.us.setdefault(kind, []).append(done.worker_us)
        self.rates.setdefault(kind, []).append(done.rate)

    def middle(self, kind: str) -> float:
        """Return the median."""
        return statistics.median(self.us[kind])


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate of its own authority, ECDSA P-256; return it and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench.example")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=60))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("bench.example")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    chain, private = folder / "bench.pem", folder / "bench.key"
    chain.write_bytes(made.public_bytes(Encoding.PEM))
    private.touch(mode=0o600)
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return chain, private


def begin(folder: Path, backends: tuple[int, int, int, int]) -> list[Side]:
    """Start both, each with a plain and a TLS port."""
    pair = certificate(folder)
    sides = []
    for name, start, workers in (
        ("nginx", targets.start_nginx, whole_family),
        ("gateway", targets.start_gateway, gateway_workers),
    ):
        plain, secure, admin = free_ports(3)
        own = folder / name
        own.mkdir()
        place = Place(own, plain, admin, backends[:2], backends[2:], tls=(secure, *pair))
        sides.append(Side(name, start(place), (plain, secure), workers))
    return sides


def render(sides: list[Side]) -> str:
    """Return the figures as a table, with the ratios that have a bar."""
    lines = ["| µs of processor time | " + " | ".join(each.name for each in sides) + " | ratio |"]
    lines.append("|---" * (len(sides) + 2) + "|")
    nginx, ours = sides

    def row(what: str, values: list[float], spread: list[list[float]], bar: float = 0.0) -> None:
        cells = [
            f"{value:.1f} ({min(each):.1f}-{max(each):.1f})" if each else f"{value:.1f}"
            for value, each in zip(values, spread, strict=True)
        ]
        told = f"{values[1] / values[0]:.2f}" + (f" (bar {bar})" if bar else "")
        lines.append(f"| {what} | {' | '.join(cells)} | {told} |")

    for kind, what, bar in (
        ("kept", "a request, kept alive, TLS 1.3", KEPT_BAR),
        ("plain kept", "the same without TLS", 0.0),
        ("closed", "a connection with handshake and one request", 0.0),
        ("plain closed", "the same without TLS", 0.0),
    ):
        row(what, [nginx.middle(kind), ours.middle(kind)], [nginx.us[kind], ours.us[kind]], bar)
    handshakes = [each.middle("closed") - each.middle("plain closed") for each in sides]
    row("the handshake alone (the difference)", handshakes, [[], []], HANDSHAKE_BAR)
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run and print. 0: done; 2: a program needed is missing."""
    parser = argparse.ArgumentParser(prog="loadtests.tls", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="of one round")
    parser.add_argument("--connections", type=int, default=64)
    given = parser.parse_args()
    if missing := [name for name in ("nginx", "wrk") if program(name) is None]:
        print(f"needs {' and '.join(missing)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="gateway-tls-") as name:
        folder = Path(name)
        ports = free_ports(4)
        backend = targets.start_backend(folder, tuple(ports))
        sides: list[Side] = []
        try:
            sides = begin(folder, (ports[0], ports[1], ports[2], ports[3]))
            for number in range(given.rounds + 1):
                for kind in KINDS:
                    for each in sides:
                        each.round(kind, given.seconds if number else 1, given.connections)
                        if number == 0:
                            each.us[kind].clear()  # warmed up
                        else:
                            told = f"{each.name} {kind}: {each.us[kind][-1]:.1f} µs"
                            print(f"{told}, {each.rates[kind][-1]:.0f}/s", file=sys.stderr)
            print(render(sides))
        except ToolError as error:
            print(error, file=sys.stderr)
            return 1
        finally:
            for each in sides:
                each.child.stop()
            backend.stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
