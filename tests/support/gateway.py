"""The real command under test: ``python -m gateway run --config FILE`` and its admin API."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from gateway.demo.ports import free_ports
from tests.support.processes import (
    ROOT,
    Process,
    alive,
    children_of,
    start,
    wait_until,
)

TOKEN = "test-token-" + "0" * 24


def config_for(
    services: Mapping[str, tuple[Sequence[str], Sequence[str]]],
    *,
    port: int,
    admin: int,
    folder: Path,
    workers: int = 1,
    service_keys: str = "",
    extra: str = "",
) -> str:
    """Return a configuration: services by name with their blue and green URLs.

    The first service takes every path; the others their name's (``/NAME/``). ``service_keys`` are
    keys of every service (lines indented by four), ``extra`` whole top-level sections.
    """
    lines = [
        "version: 1",
        f'listen: [{{address: "127.0.0.1:{port}"}}]',
        f"workers: {workers}",
        f"state: {{path: {folder}/gateway.db}}",
        f"access_log: {folder}/access.log",
        "admin:",
        f"  address: 127.0.0.1:{admin}",
        "  tokens: [{name: test, role: admin, token_env: GATEWAY_TEST_TOKEN}]",
        "services:",
    ]
    for name, (blue, green) in services.items():
        lines.append(f"  {name}:")
        lines.append(f"    blue: {{endpoints: {json.dumps(list(blue))}}}")
        if green:
            lines.append(f"    green: {{endpoints: {json.dumps(list(green))}}}")
        if service_keys:
            lines.append(service_keys.rstrip("\n"))
    first, *others = services
    lines.append("routes:")
    lines += [f"  - {{path: /{name}/, service: {name}}}" for name in others]
    lines.append(f"  - {{path: /, service: {first}}}")
    return "\n".join(lines) + "\n" + extra


@dataclass(frozen=True, slots=True)
class ApiAnswer:
    """One answer of the admin API."""

    status: int
    body: Any
    fields: Mapping[str, str]


class GatewayProcess:
    """A running gateway; use as a context manager, which leaves no process behind.

    ``config`` is a whole configuration text, or made by ``for_services``.
    """

    #: What the command is run by.
    prefix: Sequence[str] = ()

    def __init__(
        self,
        config: str,
        folder: Path,
        *,
        port: int,
        admin: int,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.port = port
        self.admin = admin
        self.path = folder / "gateway.yaml"
        self.path.write_text(config)
        self.env = {
            "GATEWAY_TEST_TOKEN": TOKEN,
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            **(env or {}),
        }
        self.process: Process | None = None
        self._family: set[int] = set()

    @classmethod
    def for_services(
        cls,
        folder: Path,
        services: Mapping[str, tuple[Sequence[str], Sequence[str]]],
        *,
        workers: int = 1,
        service_keys: str = "",
        extra: str = "",
        env: Mapping[str, str] | None = None,
    ) -> Self:
        """Configure free ports and these services; see ``config_for``."""
        port, admin = free_ports(2)
        text = config_for(
            services,
            port=port,
            admin=admin,
            folder=folder,
            workers=workers,
            service_keys=service_keys,
            extra=extra,
        )
        return cls(text, folder, port=port, admin=admin, env=env)

    @property
    def url(self) -> str:
        """The public side's base URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        """The admin API's base URL."""
        return f"http://127.0.0.1:{self.admin}"

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        assert self.process is not None, "not started"
        return self.process.pid

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it is ready: every worker on the current snapshot."""
        command: list[str | Path] = [*self.prefix, sys.executable, "-m", "gateway"]
        command += ["run", "--config", self.path]
        self.process = process = start("gateway", command, self.folder, self.env)

        def ready() -> bool | None:
            if process.popen.poll() is not None:
                pytest.fail(f"gateway exited with {process.popen.returncode}:\n{process.said()}")
            return self.is_ready()

        wait_until(ready, lambda: f"the gateway is ready:\n{process.said()}")
        self._remember()

    def is_ready(self) -> bool:
        """Tell whether ``/readyz`` says yes."""
        with contextlib.suppress(OSError):
            return self.api("GET", "/readyz").status == 200
        return False

    def _remember(self) -> None:
        self._family.update(children_of(self.pid))

    def stop(self, signal_: signal.Signals = signal.SIGTERM) -> int:
        """End it and every child that it is known to have had; return its exit code."""
        if self.process is None:
            return 0
        if self.process.popen.poll() is None:
            self._remember()
        code = self.process.stop(signal_)
        for pid in self._family:
            if alive(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        return code

    def api(self, method: str, path: str, body: object = None, **fields: str) -> ApiAnswer:
        """Call the admin API; refusals are answers, too. Raises OSError where nobody is there.

        ``fields`` are request fields with ``_`` for ``-`` (``If_Match="…"``).
        """
        request = urllib.request.Request(
            self.admin_url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {TOKEN}",
                "Content-Type": "application/json",
                **{name.replace("_", "-"): value for name, value in fields.items()},
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return _read(answer.status, answer.read(), dict(answer.headers.items()))
        except urllib.error.HTTPError as error:
            with error:
                return _read(error.code, error.read(), dict(error.headers.items()))

    def set_weight(self, candidate: float) -> ApiAnswer:
        """Move traffic once the candidate can serve (its first probes take a moment)."""
        last: list[ApiAnswer] = []

        def moved() -> ApiAnswer | None:
            last.append(self.api("PUT", "/v1/traffic", {"candidate": candidate}))
            return last[-1] if last[-1].status != 409 else None

        answer = wait_until(moved, lambda: f"candidate at {candidate}: {last[-1]}")
        assert answer.status == 200, answer
        return answer

    def said(self) -> str:
        """Return what the processes have written."""
        return "" if self.process is None else self.process.said()


def _read(status: int, body: bytes, fields: Mapping[str, str]) -> ApiAnswer:
    try:
        value = json.loads(body)
    except ValueError:
        value = body.decode(errors="replace")
    return ApiAnswer(status, value, fields)
