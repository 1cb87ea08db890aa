"""npm's ``http-cache-tests`` played through a cache, and how its results are counted.

``make cachesuite`` installs the package. ``python -m tests.outside.http_cache [ID ...]`` plays all
of it, or only some, through a gateway with ``cache: on`` and prints what failed and why.

Each test is of a kind: *required* by the specifications, *optimal* (a reuse that is allowed and was
missed), or a *check* that only tells how a cache behaves. The published figure of a cache is the
number of its required passes, a test that another one depends on counted by itself, surrogate
control (which is no part of HTTP) and what needs a browser left out: 157 can be had.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.demo.ports import free_ports
from tests.support.gateway import GatewayProcess, config_for
from tests.support.processes import ROOT, need, start_listening

HERE = Path(__file__).parent

#: Whole runs take 13 seconds, most of it pauses in which stored answers grow stale.
PATIENCE = 110


@dataclass(frozen=True, slots=True)
class Outcome:
    """One test: its kind, and why it failed (empty: it passed)."""

    id: str
    kind: str
    browser: bool
    failure: str

    @property
    def counts(self) -> bool:
        """Tell whether a cache's published figure counts it."""
        return self.kind == "required" and not self.browser and not self.surrogate

    @property
    def surrogate(self) -> bool:
        """Tell whether it is about ``Surrogate-Control``."""
        return self.id.startswith("surrogate-")


@dataclass(frozen=True, slots=True)
class Score:
    """What came of a run."""

    outcomes: tuple[Outcome, ...]

    @property
    def required(self) -> int:
        """The number of required passes, as published for other caches."""
        return sum(outcome.counts and not outcome.failure for outcome in self.outcomes)

    @property
    def optimal(self) -> int:
        """The number of reuses that were not missed, of 86."""
        kept = (each for each in self.outcomes if each.kind == "optimal" and not each.surrogate)
        return sum(not outcome.failure for outcome in kept)

    @property
    def failed(self) -> list[Outcome]:
        """The required tests that failed, in the suite's order."""
        return [outcome for outcome in self.outcomes if outcome.counts and outcome.failure]

    def lines(self) -> list[str]:
        """Say the figures and every required failure."""
        possible = sum(outcome.counts for outcome in self.outcomes)
        head = f"{self.required} of {possible} required, {self.optimal} optimal"
        return [head, *(f"  {each.id}: {each.failure}" for each in self.failed)]


def read_score(said: bytes) -> Score:
    """Read what http_cache_play.mjs prints."""
    told = json.loads(said)
    results = told["results"]

    def failure(name: str) -> str:
        result = results.get(name, ["Untested", "not played"])
        return "" if result is True else f"{result[0]}: {result[1]}"

    return Score(
        tuple(
            Outcome(test["id"], test["kind"], test["browser"], failure(test["id"]))
            for test in told["tests"]
        )
    )


def package() -> Path:
    """Return the installed package's folder; skip, saying so, where it is missing."""
    need("node")
    folder = Path(os.environ.get("HTTP_CACHE_TESTS", ROOT / ".make" / "http-cache-tests"))
    found = folder / "node_modules" / "http-cache-tests"
    if not (found / "client" / "runner.mjs").is_file():
        pytest.skip("npm's http-cache-tests is not installed (make cachesuite)")
    return found


@contextmanager
def origin(folder: Path, name: str) -> Iterator[int]:
    """Start the suite's origin server; give its port. It plays every test's server side."""
    (port,) = free_ports(1)
    preload = HERE / "http_cache_loopback.cjs"
    node: list[str | Path] = ["node", "--no-warnings", "--require", preload, "server/server.mjs"]
    env = {
        "npm_config_protocol": "http",
        "npm_config_port": str(port),
        "npm_config_pidfile": str(folder / f"{name}.pid"),
    }
    # Its own folder is where it looks for the files of its pages.
    process = start_listening(name, node, folder, port, env, cwd=package())
    try:
        yield port
    finally:
        process.stop()


def play(port: int, ids: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """Begin to play the tests (all, or some and what they depend on) through a port."""
    command: list[str | Path] = [
        need("node"),
        "--no-warnings",
        HERE / "http_cache_play.mjs",
        package(),
    ]
    return subprocess.Popen(
        [*command, f"http://127.0.0.1:{port}", *ids],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(playing: subprocess.Popen[bytes]) -> Score:
    """Wait for the end of a run and read it."""
    try:
        said, complaint = playing.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        playing.kill()
        _, complaint = playing.communicate()
        pytest.fail(f"the suite hangs: {complaint.decode(errors='replace')[-2000:]}")
    assert playing.returncode == 0, complaint.decode(errors="replace")[-2000:]
    return read_score(said)


@contextmanager
def caching_gateway(folder: Path, backend: int) -> Iterator[GatewayProcess]:
    """Run a gateway whose only route keeps answers."""
    port, admin = free_ports(2)
    text = config_for(
        {"origin": ([f"http://127.0.0.1:{backend}"], [])},
        port=port,
        admin=admin,
        folder=folder,
        # The suite's origin fails on purpose, over and over.
        service_keys="    breaker: off\n    outlier: off\n    retry: off\n",
    )
    text = text.replace("service: origin}", "service: origin, cache: on}")
    with GatewayProcess(text, folder, port=port, admin=admin) as gateway:
        yield gateway


def main(ids: Sequence[str]) -> None:
    """Play through a gateway and print the score."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with origin(folder, "origin") as backend, caching_gateway(folder, backend) as gateway:
            score = finish(play(gateway.port, ids))
    sys.stdout.write("\n".join(score.lines()) + "\n")
    for other in score.outcomes if ids else ():
        sys.stdout.write(f"{other.kind} {other.id}: {other.failure or 'passed'}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
