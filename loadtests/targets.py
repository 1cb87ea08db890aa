"""The proxies under test and their configurations, all written for the same work.

Each one: one worker; a split by the ``gw_cohort`` cookie, 80 % blue and 20 % green; two endpoints a
color with keep-alive; forwarded fields and a request id upstream; five security fields on the
answer; an access log of JSON lines in a file. Nothing else.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loadtests.processes import Child, ToolError, descendants, start, wait_listening

ROOT = Path(__file__).parent.parent

#: What every proxy sets on answers.
SECURITY = {
    "Content-Security-Policy-Report-Only": "default-src 'self'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "strict-origin-when-cross-origin",
    "Permissions-Policy": "geolocation=()",
}
TOKEN = "bench-" + "0" * 32
BODY = 1024


@dataclass(frozen=True, slots=True)
class Place:
    """Where a target lives: its folder, its port, a second one for its admin side, its backends."""

    folder: Path
    port: int
    admin: int
    blue: tuple[int, int]
    green: tuple[int, int]
    #: A second public port, with the files of a certificate and its key; None: plain alone.
    tls: tuple[int, Path, Path] | None = None

    def write(self, name: str, text: str) -> Path:
        """Write a file into the folder."""
        path = self.folder / name
        path.write_text(text)
        return path


@dataclass(frozen=True, slots=True)
class Target:
    """One proxy: how it starts, and which of its processes do a request's work."""

    name: str
    version: str
    begin: Callable[[Place], Child]
    workers: Callable[[Child], list[int]]


def whole_family(child: Child) -> list[int]:
    """Count the process and all that it started."""
    return [child.pid, *descendants(child.pid)]


def gateway_workers(child: Child) -> list[int]:
    """Count the gateway's workers alone: the children that were told so."""
    found = []
    for pid in descendants(child.pid):
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        for entry in environment:
            if entry.startswith(b"GATEWAY_CHILD="):
                told = json.loads(entry.partition(b"=")[2])
                serves = told.get("role") == "worker" and told.get("slot", -1) >= 0
                found += [pid] if serves else []  # the spare has no slot
    return found


# --- nginx: the backend of all, and a target ---------------------------------------------------


def _nginx(folder: Path, name: str, http: str) -> list[str]:
    text = f"""worker_processes 1;
worker_rlimit_nofile 65536;
error_log {folder}/{name}.error;
pid {folder}/{name}.pid;
daemon off;
events {{ worker_connections 20000; }}
http {{
  client_body_temp_path {folder}/{name}.body; proxy_temp_path {folder}/{name}.proxy;
  fastcgi_temp_path {folder}/{name}.fcgi; uwsgi_temp_path {folder}/{name}.uwsgi;
  scgi_temp_path {folder}/{name}.scgi;
  keepalive_requests 1000000000; keepalive_timeout 600s; tcp_nodelay on;
  {http}
}}
"""
    path = folder / f"{name}.conf"
    path.write_text(text)
    return [program("nginx") or "nginx", "-c", str(path), "-p", str(folder)]


def start_backend(
    folder: Path, ports: tuple[int, ...], more: str = "", *, servers: str = ""
) -> Child:
    """Start nginx answering ``BODY`` octets on each port: cheap, and the same for everybody.

    The first half of the ports plays blue, the second green; ``X-Served-By`` says so. ``more`` are
    further directives of nginx's for the answer, ``servers`` for each server.
    """
    body = ("0123456789abcdef" * (BODY // 16))[:BODY]
    text = "\n".join(
        f"server {{ listen 127.0.0.1:{port} backlog=4096; {servers}"
        " location / { default_type text/html;"
        f" add_header X-Served-By {'blue' if at < len(ports) // 2 else 'green'}; {more}"
        f' return 200 "{body}"; }} }}'
        for at, port in enumerate(ports)
    )
    child = start("backend", _nginx(folder, "backend", f"access_log off;\n{text}"), folder)
    for port in ports:
        wait_listening(child, port)
    return child


def start_nginx(place: Place) -> Child:
    """Start nginx: split_clients on the cookie."""
    pools = "\n".join(
        f"upstream {color} {{ server 127.0.0.1:{a}; server 127.0.0.1:{b}; keepalive 256;"
        " keepalive_requests 1000000000; }"
        for color, (a, b) in (("blue", place.blue), ("green", place.green))
    )
    fields = "\n".join(f'add_header {k} "{v}" always;' for k, v in SECURITY.items())
    log = (
        'log_format json escape=json \'{"at":"$time_iso8601","client":"$remote_addr",'
        '"id":"$request_id","method":"$request_method","target":"$request_uri",'
        '"status":$status,"octets":$body_bytes_sent,"seconds":$request_time,"color":"$side",'
        '"upstream":"$upstream_addr","upstream_seconds":"$upstream_response_time",'
        '"agent":"$http_user_agent"}\';'
    )
    secure = ""
    if place.tls is not None:
        port, certificate, key = place.tls
        secure = (
            f"listen 127.0.0.1:{port} ssl backlog=4096; ssl_certificate {certificate};"
            f" ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;"
        )
    http = f"""{log}
  access_log {place.folder}/nginx.log json buffer=64k flush=1s;
  split_clients "$cookie_gw_cohort" $side {{ 20% green; * blue; }}
  {pools}
  server {{
    listen 127.0.0.1:{place.port} backlog=4096;
    {secure}
    {fields}
    location / {{
      proxy_pass http://$side; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $host; proxy_set_header X-Request-Id $request_id;
      proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Release-Color $side;
    }}
  }}"""
    child = start("nginx", _nginx(place.folder, "nginx", http), place.folder)
    wait_listening(child, place.port)
    return child


# --- HAProxy -----------------------------------------------------------------------------------


def start_haproxy(place: Place) -> Child:
    """Start HAProxy: a hash of the cookie modulo 100 picks the backend."""
    fields = "\n".join(f'  http-response set-header {k} "{v}"' for k, v in SECURITY.items())
    log = (
        (
            '{"at":"%[date]","client":"%ci","id":"%ID","method":"%HM","target":"%HU","status":%ST,'
            '"octets":%B,"ms":%Ta,"color":"%b","upstream":"%s","upstream_ms":%Tr,'
            '"agent":"%[capture.req.hdr(0),json]"}'
        )
        .replace('"', '\\"')
        .replace(" ", "\\ ")
    )
    pools = "\n".join(
        f"backend {color}\n  http-request set-header X-Release-Color {color}\n"
        + "\n".join(f"  server s{port} 127.0.0.1:{port}" for port in ports)
        for color, ports in (("blue", place.blue), ("green", place.green))
    )
    # HAProxy refuses to start where two descriptors a connection are not allowed.
    most = min(16_000, (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 200) // 2)
    text = f"""global
  nbthread 1
  maxconn {most}
  log stdout format raw local0
defaults
  mode http
  log global
  option http-keep-alive
  http-reuse always
  timeout client 600s
  timeout server 60s
  timeout connect 5s
frontend public
  bind 127.0.0.1:{place.port} backlog 4096
  unique-id-format %{{+X}}o%ci%cp%Ts%rt
  unique-id-header X-Request-Id
  declare capture request len 128
  http-request capture req.hdr(User-Agent) id 0
  option forwardfor
  http-request set-header X-Forwarded-Proto http
  log-format {log}
{fields}
  acl candidate req.cook(gw_cohort),xxh32,mod(100) lt 20
  use_backend green if candidate
  default_backend blue
{pools}
"""
    path = place.write("haproxy.cfg", text)
    child = start("haproxy", [program("haproxy") or "haproxy", "-f", str(path)], place.folder)
    wait_listening(child, place.port)
    return child


# --- Envoy -------------------------------------------------------------------------------------


def _envoy_cluster(name: str, ports: tuple[int, int]) -> dict[str, object]:
    endpoints = [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
        for port in ports
    ]
    return {
        "name": name,
        "type": "STATIC",
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    }


def _envoy_manager(place: Place) -> dict[str, object]:
    kind = "type.googleapis.com/envoy.extensions"
    log_fields = {
        "at": "%START_TIME%",
        "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
        "id": "%REQ(X-REQUEST-ID)%",
        "method": "%REQ(:METHOD)%",
        "target": "%REQ(:PATH)%",
        "status": "%RESPONSE_CODE%",
        "octets": "%BYTES_SENT%",
        "ms": "%DURATION%",
        "color": "%UPSTREAM_CLUSTER%",
        "upstream": "%UPSTREAM_HOST%",
        "agent": "%REQ(USER-AGENT)%",
    }
    clusters = [
        {
            "name": color,
            "weight": weight,
            "request_headers_to_add": [{"header": {"key": "X-Release-Color", "value": color}}],
        }
        for color, weight in (("blue", 80), ("green", 20))
    ]
    route = {
        "match": {"prefix": "/"},
        "route": {
            "hash_policy": [{"cookie": {"name": "gw_cohort"}}],
            "weighted_clusters": {"clusters": clusters, "use_hash_policy": True},
        },
    }
    fields = [{"header": {"key": k, "value": v}} for k, v in SECURITY.items()]
    return {
        "@type": f"{kind}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "public",
        "use_remote_address": True,
        "generate_request_id": True,
        "access_log": [
            {
                "name": "file",
                "typed_config": {
                    "@type": f"{kind}.access_loggers.file.v3.FileAccessLog",
                    "path": str(place.folder / "envoy.log"),
                    "log_format": {"json_format": log_fields},
                },
            }
        ],
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{kind}.filters.http.router.v3.Router"},
            }
        ],
        "route_config": {
            "response_headers_to_add": fields,
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}],
        },
    }


def start_envoy(place: Place) -> Child:
    """Start Envoy: weighted clusters by a hash of the cookie."""
    manager = {"name": "http", "typed_config": _envoy_manager(place)}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": place.port}}
    config = {
        "static_resources": {
            "listeners": [
                {
                    "name": "public",
                    "address": address,
                    "filter_chains": [{"filters": [manager]}],
                }
            ],
            "clusters": [
                _envoy_cluster("blue", place.blue),
                _envoy_cluster("green", place.green),
            ],
        }
    }
    path = place.write("envoy.json", json.dumps(config))
    options = ["--concurrency", "1", "--disable-hot-restart", "-l", "warn"]
    child = start("envoy", [program("envoy") or "envoy", "-c", str(path), *options], place.folder)
    wait_listening(child, place.port, 30)
    return child


# --- Caddy -------------------------------------------------------------------------------------


def start_caddy(place: Place) -> Child:
    """Start Caddy: the cookie's first digit picks the side (13 of 64: 20 %)."""
    fields = "\n".join(f'    {k} "{v}"' for k, v in SECURITY.items())
    pools = "\n".join(
        f"""  handle {matcher} {{
    reverse_proxy 127.0.0.1:{ports[0]} 127.0.0.1:{ports[1]} {{
      lb_policy least_conn
      header_up X-Release-Color {color}
      header_up X-Request-Id {{http.request.uuid}}
      transport http {{
        keepalive_idle_conns_per_host 256
      }}
    }}
  }}"""
        for matcher, color, ports in (
            ("@candidate", "green", place.green),
            ("", "blue", place.blue),
        )
    )
    text = f"""{{
  admin off
  auto_https off
}}
http://127.0.0.1:{place.port}, http://bench.example:{place.port} {{
  bind 127.0.0.1
  log {{
    output file {place.folder}/caddy.log {{
      roll_disabled
    }}
    format json
  }}
  header {{
{fields}
  }}
  @candidate header_regexp Cookie gw_cohort=[A-M]
{pools}
}}
"""
    path = place.write("Caddyfile", text)
    command = [program("caddy") or "caddy", "run", "--config", str(path), "--adapter", "caddyfile"]
    home = {"HOME": str(place.folder), "XDG_DATA_HOME": str(place.folder), "GOMAXPROCS": "1"}
    child = start("caddy", command, place.folder, home)
    wait_listening(child, place.port)
    return child


# --- the gateway -------------------------------------------------------------------------------


#: The host whose answers the gateway stores.
CACHED_HOST = "cached.example"


def gateway_config(place: Place) -> str:
    """Return the gateway's configuration for the bench."""
    pools = "\n".join(
        f'    {color}: {{endpoints: ["http://127.0.0.1:{a}", "http://127.0.0.1:{b}"]}}'
        for color, (a, b) in (("blue", place.blue), ("green", place.green))
    )
    secure = ""
    if place.tls is not None:
        port, certificate, key = place.tls
        secure = (
            f', {{address: "127.0.0.1:{port}", '
            f"tls: {{certificates: [{{certificate: {certificate}, key: {key}}}]}}}}"
        )
    return f"""version: 1
listen: [{{address: "127.0.0.1:{place.port}"}}{secure}]
workers: 1
state: {{path: {place.folder}/gateway.db}}
access_log: {place.folder}/gateway.log
limits: {{connections: 20000, idle_timeout: 10m}}
admin:
  address: 127.0.0.1:{place.admin}
  tokens: [{{name: bench, role: admin, token_env: GATEWAY_BENCH_TOKEN}}]
services:
  news:
    max_in_flight: 10000
{pools}
routes:
  - {{path: /, service: news, security: page}}
  - {{host: {CACHED_HOST}, path: /, service: news, security: page, cache: on}}
security:
  profiles:
    page: {{csp_report_only: "default-src 'self'", csp: null, hsts: 5m, frame: deny,
           referrer: strict-origin-when-cross-origin, permissions: "geolocation=()"}}
"""


def call_admin(place: Place, method: str, path: str, body: object = None) -> object:
    """Call the gateway's admin API; return its JSON. Raises ToolError, with the answer's text."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{place.admin}{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        raise ToolError(f"{method} {path}: {error.code} {error.read()[:300]!r}") from error
    except OSError as error:
        raise ToolError(f"{method} {path}: {error}") from error


def start_gateway(place: Place, timeout: float = 30.0) -> Child:
    """Start the gateway with one worker and put 20 % on green through its API."""
    path = place.write("gateway.yaml", gateway_config(place))
    command = [sys.executable, "-m", "gateway", "run", "--config", str(path)]
    env = {"GATEWAY_BENCH_TOKEN": TOKEN, "PYTHONPATH": str(ROOT)}
    child = start("gateway", command, place.folder, env)
    try:
        wait_listening(child, place.port, timeout)
        deadline = time.monotonic() + timeout
        while True:
            try:
                call_admin(place, "PUT", "/v1/traffic", {"candidate": 20, "reason": "bench"})
            except ToolError as error:
                # 409 until the first probes have seen the candidate healthy.
                if time.monotonic() > deadline:
                    raise ToolError(
                        f"no split after {timeout:g} s: {error}\n{child.tail()}"
                    ) from error
                time.sleep(0.1)
            else:
                return child
    except ToolError:
        child.stop()
        raise


# --- no proxy, and the floor -------------------------------------------------------------------


def start_floor(place: Place) -> Child:
    """Start the TCP pass-through (it splits nothing and logs nothing)."""
    command = [sys.executable, "-m", "loadtests.tcp_floor", str(place.port), str(place.blue[0])]
    child = start("tcp", command, place.folder, {"PYTHONPATH": str(ROOT)})
    wait_listening(child, place.port)
    return child


# --- what is there -----------------------------------------------------------------------------


def program(name: str) -> str | None:
    """Return the path of a program, None where it is missing.

    ``BENCH_ENVOY`` and ``.make/envoy/bin`` (made by ``make envoy``) are looked at for Envoy.
    """
    if given := os.environ.get(f"BENCH_{name.upper()}"):
        return given
    own = ROOT / ".make" / "envoy" / "bin" / name
    if own.is_file():
        return str(own)
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
