"""``python -m loadtests.tls``: what TLS costs, the gateway beside nginx, in one run.

In processor time of the proxy's own processes: a request on a kept-alive connection; a connection
with a TLS 1.3 handshake (ECDSA P-256) and one request, in full (``openssl s_time``, four at a time)
and resumed (wrk resumes all but the first of each of its connections); and the same connection
without TLS, so that the difference is the handshake. Rounds are interleaved, medians are printed
with their spread. What the handshakes cost with which a round of kept-alive connections begins is
taken off its figures, by the cost of a full one.
"""

from __future__ import annotations

import argparse
import datetime
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from gateway.demo.ports import free_ports
from loadtests import measure, targets
from loadtests.processes import Child, ToolError, processor_seconds
from loadtests.targets import Place, gateway_workers, program, whole_family

#: What is measured: over TLS or not, kept alive or closed after each answer.
KINDS = {
    "kept": (True, False),
    "plain kept": (False, False),
    "full": (True, True),
    "resumed": (True, True),
    "plain closed": (False, True),
}
#: Clients that make one full handshake after the other.
FRESH = 4
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
    #: Handshakes for each request of a round of kept-alive connections.
    begun: list[float] = field(default_factory=list)

    def round(self, kind: str, seconds: float, connections: int) -> None:
        """Run a client once."""
        if kind == "full":
            self._full(seconds)
            return
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
        if kind == "kept":
            self.begun.append(connections / done.requests)

    def _full(self, seconds: float) -> None:
        """Make connections without a session, and ask for a page on each."""
        workers = self.workers(self.child)
        before = processor_seconds(workers)
        command = ["openssl", "s_time", "-connect", f"127.0.0.1:{self.ports[1]}", "-new", "-tls1_3"]
        command += ["-time", f"{max(1, round(seconds))}", "-www", "/"]
        clients = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for _ in range(FRESH)
        ]
        told = [each.communicate(timeout=seconds + 30)[0] for each in clients]
        spent = processor_seconds(workers) - before
        found = [re.search(r"(\d+) connections in \d+ real seconds", each) for each in told]
        count = sum(int(each[1]) for each in found if each is not None)
        if count == 0 or None in found:
            raise ToolError(f"openssl s_time said: {told[0][-500:]}")
        self.us.setdefault("full", []).append(spent * 1e6 / count)
        self.rates.setdefault("full", []).append(count / seconds)

    def idle(self, count: int) -> float:
        """Return the resident octets of an idle connection over TLS."""
        found = measure.idle_connections(
            self.ports[1], count, self.workers(self.child), secure=True
        )
        if found.note:
            print(f"{self.name}: {found.note}", file=sys.stderr)
        return found.octets_each

    def take_off(self) -> None:
        """Take the handshakes off the figures of kept-alive connections."""
        each = self.middle("full") - self.middle("plain closed")
        self.us["kept"] = [
            us - share * each for us, share in zip(self.us["kept"], self.begun, strict=True)
        ]

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


def render(sides: list[Side], idle: Sequence[float] = ()) -> str:
    """Return the figures as a table, with the ratios that have a bar."""
    lines = ["| µs of processor time | " + " | ".join(each.name for each in sides) + " | ratio |"]
    lines.append("|---" * (len(sides) + 2) + "|")
    nginx, ours = sides

    def row(what: str, values: list[float], spread: list[list[float]], bar: float = 0.0) -> None:
        cells = [
            f"{value:.1f} ({min(each):.1f}-{max(each):.1f})" if each else f"{value:.1f}"
            for value, each in zip(values, spread, strict=True)
        ]
        told = f"{values[1] / values[0]:.2f}" if values[0] > 0 else ""
        told += f" (bar {bar})" if bar else ""
        lines.append(f"| {what} | {' | '.join(cells)} | {told} |")

    for kind, what, bar in (
        ("kept", "a request, kept alive, TLS 1.3", KEPT_BAR),
        ("plain kept", "the same without TLS", 0.0),
        ("full", "a connection with a full handshake and one request", 0.0),
        ("resumed", "the same with a resumed one", 0.0),
        ("plain closed", "the same without TLS", 0.0),
    ):
        row(what, [nginx.middle(kind), ours.middle(kind)], [nginx.us[kind], ours.us[kind]], bar)
    for kind, bar in (("full", HANDSHAKE_BAR), ("resumed", 0.0)):
        alone = [each.middle(kind) - each.middle("plain closed") for each in sides]
        row(f"the {kind} handshake alone (the difference)", alone, [[], []], bar)
    added = [each.middle("kept") - each.middle("plain kept") for each in sides]
    row("what TLS adds to a request kept alive (the difference)", added, [[], []])
    if idle:
        row("octets of memory, an idle connection over TLS", list(idle), [[], []])
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run and print. 0: done; 2: a program needed is missing."""
    parser = argparse.ArgumentParser(prog="loadtests.tls", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="of one round")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--idle", type=int, default=2000, help="connections held; 0: not measured")
    given = parser.parse_args()
    if missing := [name for name in ("nginx", "wrk", "openssl") if program(name) is None]:
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
                            each.begun.clear()
                        else:
                            told = f"{each.name} {kind}: {each.us[kind][-1]:.1f} µs"
                            print(f"{told}, {each.rates[kind][-1]:.0f}/s", file=sys.stderr)
            for each in sides:
                each.take_off()
            idle = [each.idle(given.idle) for each in sides] if given.idle else []
            print(render(sides, idle))
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
