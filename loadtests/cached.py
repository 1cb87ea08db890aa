"""What a request costs that is answered from the cache, beside a proxied one, in one run.

``python -m loadtests.cached [ROUNDS] [SECONDS]``: one gateway with one worker, the work of the
bench (``loadtests.targets``), the same requests to a host whose answers are stored and to one whose
are not, in turns. Prints microseconds of the worker's processor time a request: median, lowest and
highest of the rounds.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gateway.demo.ports import free_ports
from loadtests.measure import Round, wrk_round
from loadtests.targets import CACHED_HOST, Place, gateway_workers, start_backend, start_gateway

CONNECTIONS = 32
HOSTS = {"proxied": "plain.example", "from the cache": CACHED_HOST}


def measure(rounds: int, seconds: float) -> dict[str, list[Round]]:
    """Play the rounds; raises ToolError where something does not start."""
    found: dict[str, list[Round]] = {name: [] for name in HOSTS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        port, admin, *ports = free_ports(6)
        backend = start_backend(folder, tuple(ports), 'add_header Cache-Control "max-age=3600";')
        try:
            place = Place(folder, port, admin, (ports[0], ports[1]), (ports[2], ports[3]))
            child = start_gateway(place)
            try:
                workers = gateway_workers(child)
                for number in range(rounds + 1):
                    for what, host in HOSTS.items():
                        done = wrk_round(port, seconds, CONNECTIONS, workers, [child.pid], host)
                        if number:  # the first one fills the cache and the pools
                            found[what].append(done)
            finally:
                child.stop()
        finally:
            backend.stop()
    return found


def main(arguments: Sequence[str]) -> None:
    """Measure and print."""
    rounds = int(arguments[0]) if arguments else 5
    seconds = float(arguments[1]) if len(arguments) > 1 else 3.0
    for what, done in measure(rounds, seconds).items():
        costs = [each.worker_us for each in done]
        rate = statistics.median(each.rate for each in done)
        print(
            f"{what}: {statistics.median(costs):.1f} ({min(costs):.1f}-{max(costs):.1f}) us, "
            f"{rate:.0f}/s, errors {sum(each.errors for each in done)}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
