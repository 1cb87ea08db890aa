"""What the demo is made of: which services on which ports, and the gateway's file for them."""

from __future__ import annotations

import socket
from dataclasses import dataclass, replace
from pathlib import Path

from gateway.config.snapshot import COLORS
from gateway.demo.identity import Identity
from gateway.demo.ports import HOST, free_ports

#: Processes per service and color, and the last digit of their ports.
REPLICAS: dict[str, int] = {"website": 1, "ivor": 2, "events": 1, "newsroom": 1}

_COLOR_BASE = {"blue": 4100, "green": 4200}

#: Requests in flight get this long at the demo's end: Ctrl-C should not wait for a chat.
DRAIN_TIMEOUT = "2s"


_OK = {"status": "ok"}

#: A release in a minute, if somebody visits: too short for anything but a look.
RELEASES: dict[str, object] = {
    "steps": [
        {"weight": 5, "hold": "10s"},
        {"weight": 20, "hold": "10s"},
        {"weight": 50, "hold": "10s"},
        {"weight": 100, "hold": "15s"},
    ],
    "min_requests": 20,
    "min_keys": 3,
    "max_hold": "30s",
    "on_inconclusive": "promote",
    "triggers": {"error_rate": {"for": "20s"}, "latency": {"for": "20s"}},
}

#: The deeper levels of health. L4 goes through the gateway: the website's asks the three APIs, too.
LEVELS: dict[str, dict[str, object]] = {
    "website": {
        "L4": {
            "requests": [
                {"path": "/", "answer_fields": {"Content-Type": "text/html*"}},
                {"path": "/api/newsroom/articles", "capture": {"article": "articles.0.id"}},
                {
                    "path": "/today?article={article}",
                    "answer_fields": {"Content-Type": "text/html*"},
                },
            ]
        }
    },
    "ivor": {
        "L3": {"path": "/api/chat/selftest", "json": _OK},
        "L4": {
            "requests": [
                {
                    "path": "/api/ivor/resources",
                    "json": {"service": "ivor", "resources.0.title": {"present": True}},
                }
            ]
        },
    },
    "events": {"L3": {"path": "/health", "json": _OK}},
    "newsroom": {"L3": {"path": "/health", "json": _OK}},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """One service process and its port."""

    identity: Identity
    port: int

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{HOST}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """All ports of a demo."""

    public: int
    admin: int
    processes: tuple[Placed, ...]

    def endpoints(self, service: str, color: str) -> list[str]:
        """Return one pool's addresses."""
        return [
            placed.url
            for placed in self.processes
            if (placed.identity.service, placed.identity.color) == (service, color)
        ]

    def ports(self) -> list[tuple[int, str]]:
        """Return every port with what it is for."""
        return [
            (self.public, "the public address"),
            (self.admin, "the admin API"),
            *((placed.port, placed.identity.name) for placed in self.processes),
        ]


def usual_layout() -> Layout:
    """Return the ports that ``config/demo.yaml`` has."""
    processes = [
        Placed(
            identity=Identity(service=service, color=color, replica=replica),
            port=_COLOR_BASE[color] + 10 * (replica - 1) + position,
        )
        for position, service in enumerate(REPLICAS, start=1)
        for color in COLORS
        for replica in range(1, REPLICAS[service] + 1)
    ]
    return Layout(public=8080, admin=9090, processes=tuple(processes))


def free_layout() -> Layout:
    """Return the usual layout on ports that are free now."""
    usual = usual_layout()
    ports = free_ports(len(list(usual.ports())))
    processes = [
        replace(placed, port=port) for placed, port in zip(usual.processes, ports[2:], strict=True)
    ]
    return Layout(public=ports[0], admin=ports[1], processes=tuple(processes))


def taken_ports(layout: Layout) -> list[tuple[int, str]]:
    """Return the ports that something listens on already, with what they are needed for."""
    taken = []
    for port, purpose in layout.ports():
        with socket.socket() as probe:
            # As the services themselves bind; and never SO_REUSEPORT, which two gateways share.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                taken.append((port, purpose))
    return taken


#: What answers for a service that cannot, as ``config/demo.yaml`` has it.
FALLBACKS: dict[str, list[dict[str, dict[str, object]]]] = {
    "website": [
        {"static": {"status": 503, "file": "website.html.tmpl", "fields": {"Retry-After": "10"}}}
    ],
    "ivor": [
        {"stale": {"paths": ["/api/ivor/resources"], "shared": True}},
        {"static": {"file": "ivor.json"}},
    ],
    "events": [{"static": {"file": "events.json", "paths": ["/api/events/upcoming"]}}],
    "newsroom": [{"stale": {"paths": ["/api/newsroom/articles"], "shared": True}}],
}
_FILES = Path(__file__).parent / "fallback"


def _degradation(service: str) -> dict[str, object]:
    """Return what a service depends on and what answers for it, files by their whole paths."""
    fallbacks = [
        {
            kind: {key: str(_FILES / str(value)) if key == "file" else value
                   for key, value in keys.items()}
            for kind, keys in item.items()
        }
        for item in FALLBACKS[service]
    ]  # fmt: skip
    made: dict[str, object] = {"fallback": fallbacks}
    if service == "website":
        made["depends_on"] = [name for name in REPLICAS if name != "website"]
    return made


def configuration(layout: Layout, folder: Path) -> dict[str, object]:
    """Return the gateway's configuration for a layout, its files in ``folder``."""
    services = {
        service: {
            **{color: {"endpoints": layout.endpoints(service, color)} for color in COLORS},
            "drain_timeout": DRAIN_TIMEOUT,
            "health": {"interval": "1s", "L2": {"path": "/health"}, **LEVELS[service]},
            **_degradation(service),
        }
        for service in REPLICAS
    }
    return {
        "version": 1,
        "listen": [{"address": f"{HOST}:{layout.public}"}],
        "workers": 2,
        "state": {"path": str(folder / "gateway.db")},
        "admin": {
            "address": f"{HOST}:{layout.admin}",
            "tokens": [{"name": "demo", "role": "admin", "token_file": str(folder / "token")}],
        },
        "internal_callers": [f"{HOST}/32"],
        "traffic": {
            "cohort": {"header": "X-User-Id", "secret_file": str(folder / "cohort.secret")}
        },
        "services": services,
        "routes": [
            {"path": "/api/ivor/", "service": "ivor"},
            {"path": "/api/events/", "service": "events"},
            {
                "path": "/api/newsroom/",
                "service": "newsroom",
                "rate_limit": {"rate": "60/min", "burst": 20},
            },
            {"path": "/", "service": "website", "security": "page"},
        ],
        "security": {"profiles": {"page": {}}},
        "releases": RELEASES,
    }
