"""The demo from start to end: services, gateway, readiness, Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import yaml

from gateway.client import running_demo
from gateway.client.api import AdminClient, AdminError
from gateway.client.exits import Exit
from gateway.client.link import Link, parse_admin
from gateway.client.running_demo import ClientFile, Instance
from gateway.demo.children import GATEWAY, Child, Children, DemoError, await_ready, start_service
from gateway.demo.layout import Layout, configuration, free_layout, taken_ports, usual_layout
from gateway.demo.ports import HOST
from gateway.demo.selftest import SelfTestError, self_test
from gateway.supervisor.plan import python

Say = Callable[[str], None]

#: Seconds for ten processes and the gateway to start on a slow machine.
START_LIMIT = 60.0
LOOK = 0.1
#: Seconds for the admin API to say how far the start has come.
ASK_LIMIT = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What ``gateway demo`` was asked for."""

    folder: Path
    free_ports: bool = False
    check: bool = False


class Interrupted(Exception):  # noqa: N818  not an error: what Ctrl-C and SIGTERM ask for
    """Somebody wants the demo to end."""


class Signals:
    """Ctrl-C, SIGTERM and a closed terminal as one flag, looked at between steps."""

    def __init__(self) -> None:
        self.arrived = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Note a signal."""
        del number, frame
        self.arrived = True

    def check(self) -> None:
        """Raise Interrupted once a signal has arrived."""
        if self.arrived:
            raise Interrupted

    def pause(self, seconds: float) -> None:
        """Wait; raise Interrupted once a signal has arrived."""
        self.check()
        time.sleep(seconds)
        self.check()


@contextmanager
def signals_caught() -> Iterator[Signals]:
    """Catch the signals that end a demo; the former handlers return at the end."""
    caught = Signals()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    former = [signal.signal(number, caught) for number in numbers]
    try:
        yield caught
    finally:
        for number, handler in zip(numbers, former, strict=True):
            signal.signal(number, handler)


def run_demo(options: Options, say: Say) -> Exit:
    """Run the demo until somebody ends it. Raises DemoError where it cannot start or go on."""
    folder = options.folder.absolute()
    layout = _layout(options, folder)
    try:
        token = _prepare(folder, layout)
    except OSError as error:
        raise DemoError(f"{error.filename or folder}: {error.strerror}") from error
    mark = secrets.token_hex(8)
    children = Children(folder / "log", mark)
    elsewhere = running_demo.user_file(os.environ)
    written = [folder / "client.json", *([elsewhere] if elsewhere else [])]
    with signals_caught() as signals:
        try:
            content = _start(layout, folder, token, children, signals)
            _publish(written, content, say)
            if options.check:
                return _check(content, say)
            _tell(content, folder, say)
            _watch(children, signals, say)
        except Interrupted:
            say("Stopping.")
        finally:
            for path in written:
                running_demo.remove(path, os.getpid())
            for name in children.stop():
                say(f"had to be ended by force: {name}")
    return Exit.DONE


def _publish(paths: list[Path], content: ClientFile, say: Say) -> None:
    """Write the files that other verbs find the demo by. A home may be read-only: no harm."""
    for path in paths:
        try:
            running_demo.write(path, content)
        except OSError as error:
            say(f"{path}: {error.strerror}; the demo is found from its own folder alone")


def _layout(options: Options, folder: Path) -> Layout:
    """Choose the ports. Raises DemoError where a demo runs here already or a port is taken."""
    running = running_demo.read(folder / "client.json")
    if running is not None:
        raise DemoError(f"a demo runs here already (process {running.pid}): {running.public}")
    if options.free_ports:
        return free_layout()
    layout = usual_layout()
    if taken := taken_ports(layout):
        port, purpose = taken[0]
        more = f" and {len(taken) - 1} more are" if len(taken) > 1 else " is"
        raise DemoError(
            f"port {port} (for {purpose}){more} in use:"
            " end what listens there, or use `gateway demo --free-ports`"
        )
    return layout


def _prepare(folder: Path, layout: Layout) -> str:
    """Write the demo's files and return its new token. An earlier demo's traffic is forgotten."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    for leftover in folder.glob("gateway.db*"):
        leftover.unlink()
    token = secrets.token_urlsafe(32)
    _write_secret(folder / "token", token)
    _write_secret(folder / "cohort.secret", secrets.token_urlsafe(32))
    text = yaml.safe_dump(configuration(layout, folder), sort_keys=False)
    (folder / "gateway.yaml").write_text(f"# Written by `gateway demo` for its ports.\n{text}")
    return token


def _write_secret(path: Path, text: str) -> None:
    """Write a file for its owner's eyes only."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _start(
    layout: Layout, folder: Path, token: str, children: Children, signals: Signals
) -> ClientFile:
    """Start everything and wait until every endpoint is healthy and every worker serves."""
    deadline = time.monotonic() + START_LIMIT
    public = f"http://{HOST}:{layout.public}"
    started = []
    for placed in layout.processes:
        signals.check()
        started.append(start_service(children, placed, public))
    instances = []
    for placed, child in zip(layout.processes, started, strict=True):
        ready = await_ready(child, deadline, signals.check)
        who = placed.identity
        instances.append(
            Instance(
                service=who.service,
                color=who.color,
                replica=who.replica,
                port=ready.port,
                control=ready.control,
                pid=child.process.pid,
            )
        )
    command = [*python("gateway"), "run", "--config", str(folder / "gateway.yaml")]
    leash = [*python("gateway.demo.leash"), str(os.getpid())]
    gateway = children.start(GATEWAY, [*leash, *command])
    content = ClientFile(
        admin=f"http://{HOST}:{layout.admin}",
        token=token,
        pid=os.getpid(),
        public=public,
        config=str(folder / "gateway.yaml"),
        instances=tuple(instances),
    )
    _await_gateway(content, gateway, deadline, signals)
    return content


def _link(content: ClientFile) -> Link:
    return Link(address=parse_admin(content.admin), token=content.token)


def _await_gateway(content: ClientFile, gateway: Child, deadline: float, signals: Signals) -> None:
    """Wait for all workers and all endpoints. Raises DemoError where that does not come."""
    link = _link(content)
    missing = "its admin API"
    while True:
        if gateway.process.poll() is not None:
            words = gateway.last_words() or f"no last words in {gateway.log}"
            raise DemoError(f"the gateway ended while starting: {words}")
        if time.monotonic() > deadline:
            raise DemoError(f"the gateway did not become ready: {missing}; its log: {gateway.log}")
        signals.pause(LOOK)
        try:
            missing = asyncio.run(_not_ready(link))
        except AdminError as error:
            missing = error.detail
        except TimeoutError:
            missing = f"no answer within {ASK_LIMIT:g} s"
        if not missing:
            return


async def _not_ready(link: Link) -> str:
    """Say what is not ready yet; empty where everything is."""
    # Soon given up: meanwhile nobody listens to Ctrl-C.
    async with asyncio.timeout(ASK_LIMIT), AdminClient(link) as client:
        ready = (await client.ready()).value
        if ready.status != "ok":
            return ready.detail or ready.status
        status = (await client.status()).value
    waiting = [
        endpoint.id
        for service in status.services
        for pool in service.pools
        for endpoint in pool.endpoints
        if endpoint.health != "up"
    ]
    return f"not healthy: {', '.join(waiting)}" if waiting else ""


def _check(content: ClientFile, say: Say) -> Exit:
    """Run the self-test; returns the exit status that it means."""
    try:
        asyncio.run(self_test(content.public, _link(content), say))
    except (SelfTestError, AdminError) as error:
        raise DemoError(f"self-test: {error}") from error
    say("The demo works.")
    return Exit.DONE


def _watch(children: Children, signals: Signals, say: Say) -> None:
    """Stay until a signal comes. A service that ends is told of; without a gateway it is over."""
    while True:
        for child in children.ended():
            status = child.process.returncode
            if child.name == GATEWAY:
                words = child.last_words() or f"no last words in {child.log}"
                raise DemoError(f"the gateway ended ({status}): {words}")
            say(f"{child.name} ended ({status}); the demo goes on without it")
        signals.pause(LOOK)


def gateway_command() -> str:
    """Return how this gateway's command is called from here: by its name where that finds it."""
    ours = Path(sys.argv[0]).absolute()
    if ours.name != "gateway":
        return "python -m gateway"
    found = shutil.which("gateway")
    if found is not None and Path(found).resolve() == ours.resolve():
        return "gateway"
    try:
        return str(ours.relative_to(Path.cwd()))
    except ValueError:
        return str(ours)


def _tell(content: ClientFile, folder: Path, say: Say) -> None:
    """Print where to look and what to try."""
    us = gateway_command()
    try:
        logs = folder.relative_to(Path.cwd()) / "log"
    except ValueError:
        logs = folder / "log"
    say(f"""
The demo platform runs: four services in two colors behind one gateway.

  website     {content.public}/
  admin API   {content.admin}/docs
  logs        {logs}/

Try, in another terminal:

  {us} status
  {us} traffic set 20
  {us} demo break ivor green --fail 0.5
  {us} rollback --reason "ivor fails"
  {us} demo heal
  {us} release start --version 2 --wait
  {us} demo break events blue --dead
  curl {content.public}/.well-known/gateway/status
  {us} maintenance on newsroom --retry-after 1m
  {us} demo heal && {us} maintenance off newsroom
  {us} audit

Ctrl-C stops everything.
""")
