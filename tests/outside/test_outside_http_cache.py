"""npm's ``http-cache-tests`` through the gateway, and through Varnish and nginx by the same count.

Published for others by this count: Traffic Server 132, Apache 131, Squid 122, Caddy 121,
Varnish 119, nginx 99. See ``http_cache`` for what counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from gateway.demo.ports import free_ports
from tests.outside.http_cache import Score, caching_gateway, finish, origin, package, play
from tests.support.processes import need, start_listening

pytestmark = [pytest.mark.outside, pytest.mark.slow, pytest.mark.timeout(180)]

#: What the gateway has reached; it may rise, never fall. 90 is what keeping nothing at all passes.
REQUIRED = 145

NGINX = """
user root;  # heeded only where root starts it, whose folder nobody else may write
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
worker_processes 1;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  proxy_cache_path {folder}/kept levels=1:2 keys_zone=kept:8m max_size=100m;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://127.0.0.1:{backend};
      proxy_http_version 1.1;
      proxy_cache kept;
      proxy_cache_revalidate on;
    }}
  }}
}}
"""

VARNISH = """
vcl 4.1;
backend default {{ .host = "127.0.0.1"; .port = "{backend}"; }}
"""


@contextmanager
def nginx(folder: Path, backend: int) -> Iterator[int]:
    (port,) = free_ports(1)
    path = folder / "nginx.conf"
    path.write_text(NGINX.format(folder=folder, port=port, backend=backend))
    process = start_listening("nginx", [need("nginx"), "-c", path], folder, port)
    try:
        yield port
    finally:
        process.stop()


@contextmanager
def varnish(folder: Path, backend: int) -> Iterator[int]:
    """Varnish that keeps nothing by default: two minutes of it spoil whatever depends on that."""
    (port,) = free_ports(1)
    path = folder / "default.vcl"
    path.write_text(VARNISH.format(backend=backend))
    command: list[str | Path] = [
        need("varnishd"),
        "-F",
        "-a",
        f"127.0.0.1:{port}",
        "-f",
        path,
        "-j",
        "none",
    ]
    command += ["-n", folder / "varnish", "-s", "malloc,64m"]
    command += ["-t", "0", "-p", "default_grace=0", "-p", "default_keep=3600"]
    process = start_listening("varnish", command, folder, port)
    try:
        yield port
    finally:
        process.stop()


@contextmanager
def ours(folder: Path, backend: int) -> Iterator[int]:
    with caching_gateway(folder, backend) as gateway:
        yield gateway.port


CACHES = {"gateway": ours, "nginx": nginx, "varnish": varnish}


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Score]:
    """Play through all at once, each with an origin of its own: most of the time is pauses."""
    package()
    playing = {}
    with ExitStack() as stack:
        for name, cache in CACHES.items():
            folder = tmp_path_factory.mktemp(name)
            try:
                backend = stack.enter_context(origin(folder, f"{name}-origin"))
                playing[name] = play(stack.enter_context(cache(folder, backend)))
            except pytest.skip.Exception:
                continue  # the one test that asks for it skips
        return {name: finish(run) for name, run in playing.items()}


def test_the_gateway_passes_what_it_has_passed(scores: dict[str, Score]) -> None:
    score = scores["gateway"]
    print("\n".join(["gateway", *score.lines()]))
    assert score.required >= REQUIRED, "\n".join(score.lines())


@pytest.mark.parametrize(
    ("name", "program", "published"), [("varnish", "varnishd", 119), ("nginx", "nginx", 99)]
)
def test_the_count_is_the_published_one(
    scores: dict[str, Score], name: str, program: str, published: int
) -> None:
    need(program)
    score = scores[name]
    print(f"{name}: {score.lines()[0]}")
    # Versions differ by a few.
    assert abs(score.required - published) <= 6, "\n".join(score.lines())
