"""A gateway that is replaced as a whole, by itself or by another, while a crowd is there."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import partial

from gateway.demo.ports import free_ports
from loadtests.chaos.crowd import Came, Crowd, Town
from loadtests.chaos.scenarios.deaths import all_gone
from loadtests.chaos.stage import Gateway, Lacking, Pace, Stage, wait_for
from loadtests.chaos.verdict import Check
from loadtests.chaos.versions import other_version, this_version
from loadtests.processes import ToolError, start, wait_listening


def upgraded(stage: Stage, pace: Pace) -> list[Check]:
    """Go to another version of the package and back, again and again."""
    many = 1 if pace.short else 5
    town = Town.on(stage, drain_timeout="1s" if pace.short else "5s")
    gateway = town.gateway
    town.gateway.call("PUT", "/v1/traffic", {"candidate": 30, "services": ["web"]})
    hold = ("--hold", "0s") if pace.short else ()
    newer = other_version(stage.folder / "newer")
    assert gateway.child is not None
    supervisor = gateway.child.pid
    crowd = Crowd.before(stage, gateway, pace)
    answers = []
    for _ in range(many):
        for version in (newer, this_version()):
            old = set(gateway.pids("worker"))
            answers.append(version.take_over(gateway.path, *hold, cwd=gateway.folder))
            wait_for(partial(all_gone, old), "the old workers end", 40)
    services = town.gateway.call("GET", "/v1/status")["services"]
    weight = next(each["weights"]["candidate"] for each in services if each["name"] == "web")
    came = crowd.end()
    done = [each for each in answers if each["state"] == "done"]
    slowest = max(float(str(each["seconds"])) for each in answers)
    return [
        came.nothing_lost(),
        Check(
            f"{many} times there and back",
            f"{len(done)} of {2 * many} upgrades, the slowest {slowest:.2f} s",
            len(done) == 2 * many,
        ),
        Check(
            "the same process, the same split",
            f"supervisor {supervisor} lives, candidate {weight:g} %",
            gateway.child.process.poll() is None and weight == 30,
        ),
        _in_order(came),
    ]


def _in_order(came: Came) -> Check:
    """Whoever had to come back was told in order; it is no loss, and it is counted."""
    sockets, streams = len(came.closes("websocket")), len(came.closes("event stream"))
    return Check(
        "WebSockets are closed with 1001, event streams end after a whole event",
        f"{sockets} and {streams} times",
        bool(sockets and streams),
    )


def restarted(stage: Stage, pace: Pace) -> list[Check]:
    """Restart with an activated socket (``systemctl restart``): who comes meanwhile waits."""
    many = 1 if pace.short else 5
    town = Town.on(stage, start=False)
    gateway = town.gateway
    gateway.config["shutdown"] = {"timeout": "1s"}
    codes, times = [], []
    with socket.create_server(("127.0.0.1", gateway.port), backlog=4096) as listener:
        hand = (sys.executable, "-m", "loadtests.chaos.activated", str(listener.fileno()))
        gateway.before, gateway.pass_fds = hand, (listener.fileno(),)
        gateway.start()
        gateway.settled([town.blue.url, town.green.url])
        crowd = Crowd.before(stage, gateway, pace)
        for _ in range(many):
            code, seconds = _ended(gateway)
            codes.append(code)
            times.append(seconds)
            gateway.start()
            time.sleep(0 if pace.short else 4)  # who waited is served before the next
        came = crowd.end()
        gateway.stop()
    return [
        came.nothing_lost(),
        Check(
            f"{many} restarts, each ended with exit code 0",
            f"exit codes {codes}, the slowest end {max(times):.1f} s",
            codes == [0] * many,
        ),
        _in_order(came),
    ]


def _ended(gateway: Gateway) -> tuple[int, float]:
    """End it by SIGTERM; return its exit code and how long that took. Raises ToolError."""
    assert gateway.child is not None
    began = time.monotonic()
    gateway.child.process.send_signal(signal.SIGTERM)
    try:
        code = gateway.child.process.wait(30)
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"the gateway does not end: {gateway.tail()}") from error
    return code, time.monotonic() - began


_HAPROXY = """
defaults
  mode http
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  timeout tunnel 60s
  retries 3
  option redispatch
  option httpchk GET /.well-known/gateway/ready
frontend all
  bind 127.0.0.1:{port}
  default_backend gateways
backend gateways
  balance roundrobin
  http-reuse safe
  default-server inter 200ms fall 2 rise 2 check
  server one 127.0.0.1:{one}
  server two 127.0.0.1:{two}
"""


def balanced(stage: Stage, pace: Pace) -> list[Check]:
    """Two gateways behind HAProxy, as containers are; each is ended by SIGTERM and replaced."""
    if shutil.which("haproxy") is None:
        raise Lacking("haproxy is not installed")
    many = 1 if pace.short else 3
    town = Town.on(stage, start=False)
    pair = [_one_of_two(stage, town, name) for name in ("one", "two")]
    for each in pair:
        each.start()
        each.settled([town.blue.url, town.green.url])
    (port,) = free_ports(1)
    _balancer(stage, port, pair)
    crowd = Crowd.before(stage, Gateway(stage.folder, {}, port, 0), pace)
    codes = []
    for _ in range(many):
        for each in pair:
            codes.append(_ended(each)[0])
            each.start()
            wait_for(partial(_is_ready, each), "the new one says that it is ready")
            _seen_by_balancer()
    came = crowd.end()
    return [
        came.nothing_lost(),
        Check(
            f"{2 * many} replacements, each ended with exit code 0",
            f"exit codes {codes}",
            codes == [0] * (2 * many),
        ),
        _in_order(came),
    ]


def _one_of_two(stage: Stage, town: Town, name: str) -> Gateway:
    """Make a gateway of the same services with a folder and ports of its own."""
    folder = stage.folder / name
    folder.mkdir()
    port, admin = free_ports(2)
    config = json.loads(json.dumps(town.gateway.config))
    config["listen"] = [{"address": f"127.0.0.1:{port}"}]
    config["admin"]["address"] = f"127.0.0.1:{admin}"
    config["state"] = {"path": str(folder / "gateway.db")}
    config["access_log"] = str(folder / "access.log")
    config["shutdown"] = {"delay": "2s", "timeout": "2s"}
    made = Gateway(folder, config, port, admin)
    stage.owns(made.stop)
    return made


def _balancer(stage: Stage, port: int, pair: list[Gateway]) -> None:
    one, two = pair
    file = stage.file("haproxy.cfg", _HAPROXY.format(port=port, one=one.port, two=two.port))
    child = start("haproxy", ["haproxy", "-db", "-f", file], stage.folder)
    stage.owns(child.stop)
    wait_listening(child, port)
    _seen_by_balancer()


def _seen_by_balancer() -> None:
    """Give the balancer the time that its own checks take: nobody tells when it has looked."""
    time.sleep(1.0)


def _is_ready(gateway: Gateway) -> bool:
    with contextlib.suppress(OSError):
        return gateway.ask("/.well-known/gateway/ready").status == 200
    return False
