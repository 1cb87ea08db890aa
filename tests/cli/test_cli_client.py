"""What the client does when the gateway is away, breaks off, or is none; how it is found."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.admin import breaker_models, models, release_models
from gateway.admin.calls import CALLS
from gateway.client import running_demo
from gateway.client.api import PAUSES, AdminClient, AdminError
from gateway.client.link import Address, Link, parse_admin, resolve
from gateway.client.running_demo import ClientFile
from tests.cli.fake_admin import TOKEN, FakeAdmin, Run
from tests.cli.test_cli_verbs import TRAFFIC
from tests.support.certificates import Authority


def link_to(admin: FakeAdmin) -> Link:
    return Link(address=parse_admin(admin.url), token=TOKEN)


class Naps:
    """A sleep that only notes what it was asked for."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)


CHANGE = models.TrafficChange.model_validate({"candidate": 20.0})


async def test_a_broken_connection_is_tried_again_under_the_same_key(admin: FakeAdmin) -> None:
    # A POST: aiohttp itself repeats a PUT once, which would blur the count.
    admin.answer("POST", "/v1/traffic/finalize", TRAFFIC)
    admin.breaks = 2
    naps = Naps()
    async with AdminClient(link_to(admin), sleep=naps) as client:
        reply = await client.finalize(models.FinalizeRequest())
    assert reply.value.revision == 7
    assert len(admin.asked) == 3
    assert len({asked.headers["Idempotency-Key"] for asked in admin.asked}) == 1
    assert naps.taken == list(PAUSES[:2])


async def test_two_calls_have_two_keys(admin: FakeAdmin) -> None:
    admin.answer("PUT", "/v1/traffic", TRAFFIC)
    async with AdminClient(link_to(admin)) as client:
        await client.set_traffic(CHANGE)
        await client.set_traffic(CHANGE)
    assert len({asked.headers["Idempotency-Key"] for asked in admin.asked}) == 2


async def test_a_connection_that_always_breaks_is_unreachable_in_the_end(admin: FakeAdmin) -> None:
    admin.breaks = 100
    async with AdminClient(link_to(admin), sleep=Naps()) as client:
        with pytest.raises(AdminError) as caught:
            await client.reload()
    assert caught.value.kind == "unreachable"
    assert len(admin.asked) == len(PAUSES) + 1


async def test_a_problem_becomes_the_one_error(admin: FakeAdmin) -> None:
    admin.problem(
        "GET", "/v1/traffic", 412, "stale-revision", detail="it is 8", field="If-Match", hint="x"
    )
    async with AdminClient(link_to(admin)) as client:
        with pytest.raises(AdminError) as caught:
            await client.traffic()
    error = caught.value
    found = (error.kind, error.status, error.detail, error.field, error.hint)
    assert found == ("stale-revision", 412, "it is 8", "If-Match", "x")


@pytest.mark.parametrize(("status", "body"), [(200, {"hello": "world"}), (502, "nginx"), (302, {})])
async def test_what_is_no_gateway_is_told_so(
    admin: FakeAdmin, gateway: Run, status: int, body: object
) -> None:
    admin.answer("GET", "/v1/status", body, status)
    ended = await gateway("status")
    assert ended.code == 3
    assert "no gateway's admin API" in ended.err


async def test_nobody_there_is_3_and_says_where(
    gateway: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound and not listening: nobody else takes it
        address = f"127.0.0.1:{held.getsockname()[1]}"
        monkeypatch.setenv("GATEWAY_ADMIN", address)
        for verb in (["status"], ["traffic", "set", "5"], ["rollback"], ["reload"]):
            ended = await gateway(*verb)
            assert ended.code == 3
            assert address in ended.err
            assert "GATEWAY_ADMIN" in ended.err


async def test_a_wrong_token_is_refused(
    admin: FakeAdmin, gateway: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin.answer("GET", "/v1/status", {})
    monkeypatch.setenv("GATEWAY_TOKEN", "wrong")
    ended = await gateway("status")
    assert ended.code == 4
    assert "401" in ended.err
    assert "wrong" not in ended.err


async def test_a_token_file_is_read(
    admin: FakeAdmin, gateway: Run, nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin.answer("GET", "/v1/traffic", TRAFFIC)
    monkeypatch.delenv("GATEWAY_TOKEN")
    (nowhere / "token").write_text(f"{TOKEN}\n")
    assert (await gateway("traffic", "get", "--token-file", "token")).code == 0
    assert (await gateway("traffic", "get", "--token-file", "missing")).code == 2
    (nowhere / "token").write_text("two words")
    assert (await gateway("traffic", "get", "--token-file", "token")).code == 2
    assert (await gateway("traffic", "get")).code == 2
    monkeypatch.setenv("GATEWAY_TOKEN", "a\r\nX-Injected: b")
    ended = await gateway("traffic", "get")
    assert ended.code == 2
    assert "Injected" not in ended.err


async def test_a_unix_socket_is_spoken_through(admin: FakeAdmin, tmp_path: Path) -> None:
    admin.answer("GET", "/v1/traffic", TRAFFIC)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", admin.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    path = os.path.relpath(tmp_path / "admin.sock")  # short enough for a socket's name
    await web.UnixSite(runner, path).start()
    try:
        link = Link(address=parse_admin(f"unix:{path}"), token=TOKEN)
        async with AdminClient(link) as client:
            assert (await client.traffic()).value.revision == 7
        absent = Link(address=parse_admin(f"unix:{path}.not"), token=TOKEN)
        async with AdminClient(absent) as client:
            with pytest.raises(AdminError, match="cannot reach"):
                await client.traffic()
    finally:
        await runner.cleanup()


async def test_tls_is_checked_against_the_given_authorities(
    admin: FakeAdmin, gateway: Run, nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin.answer("GET", "/v1/traffic", TRAFFIC)
    write_certificate(nowhere)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(nowhere / "cert.pem", nowhere / "key.pem")
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", admin.handle)
    server = TestServer(app, scheme="https")
    await server.start_server(ssl=context)
    try:
        monkeypatch.setenv("GATEWAY_ADMIN", f"https://localhost:{server.port}")
        assert (await gateway("traffic", "get", "--ca", "cert.pem")).code == 0
        ended = await gateway("traffic", "get")
        assert ended.code == 3
        assert "not trusted" in ended.err
        assert "--ca" in ended.err
        (nowhere / "no.pem").write_text("nothing")
        assert (await gateway("traffic", "get", "--ca", "no.pem")).code == 2
    finally:
        await server.close()
    assert len(admin.asked) == 1


@pytest.mark.parametrize("variable", ["GATEWAY_CA", "GATEWAY_CLIENT_CERT", "GATEWAY_CLIENT_KEY"])
@pytest.mark.parametrize("what", ["gone", "folder"])
async def test_a_file_is_missed_where_it_is_used_and_nowhere_else(
    admin: FakeAdmin,
    gateway: Run,
    nowhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    what: str,
) -> None:
    """A pipeline's environment must not be in the way of whom a fire brings to the machine."""
    monkeypatch.setenv("GATEWAY_CLIENT_CERT", "mine.pem")
    Authority().make("me", client=True).write(nowhere, "mine")
    (nowhere / "folder").mkdir()
    monkeypatch.setenv(variable, what)
    monkeypatch.setattr("gateway.cli.rollback_local.rollback_local", lambda config, undo: 0)
    (nowhere / "here.yaml").touch()
    assert (await gateway("rollback", "--local", "--config", "here.yaml")).code == 0
    admin.answer("GET", "/v1/traffic", TRAFFIC)
    assert (await gateway("traffic", "get")).code == 0  # over http
    there = ("--admin", f"unix:{nowhere}/none.sock")
    ended = await gateway("traffic", "get", *there)
    assert (ended.code, what in ended.err) == (3, False)
    ended = await gateway("traffic", "get", "--admin", "https://localhost:1")
    assert ended.code == 2
    assert what in ended.err
    assert variable in ended.err


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_certificate_is_shown_to_an_admin_api_that_asks_for_one(
    admin: FakeAdmin,
    gateway: Run,
    nowhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: ssl.TLSVersion,
) -> None:
    admin.answer("GET", "/v1/traffic", TRAFFIC)
    authority = Authority()
    (nowhere / "ca.pem").write_bytes(authority.pem)
    mine = authority.make("pipeline", client=True)
    mine.write(nowhere, "mine")
    (nowhere / "both.pem").write_bytes(mine.key + mine.certificate)
    Authority().make("stranger", client=True).write(nowhere, "stranger")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=authority.pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = context.maximum_version = version
    context.load_cert_chain(*authority.make("localhost").write(nowhere, "server"))
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", admin.handle)
    server = TestServer(app, scheme="https")
    await server.start_server(ssl=context)
    verb = ("traffic", "get", "--admin", f"https://localhost:{server.port}", "--ca", "ca.pem")
    try:
        pair = ("--client-cert", "mine.pem", "--client-key", "mine.key")
        assert (await gateway(*verb, *pair)).code == 0
        assert (await gateway(*verb, "--client-cert", "both.pem")).code == 0
        for nobody in ((), ("--client-cert", "stranger.pem", "--client-key", "stranger.key")):
            ended = await gateway(*verb, *nobody)
            assert ended.code == 3, ended.err
            assert "see --client-cert" in ended.err
        for wrong in (("mine.pem",), ("mine.pem", "--client-key", "stranger.key"), ("ca.pem",)):
            ended = await gateway(*verb, "--client-cert", *wrong)
            assert ended.code == 2, ended.err
            assert "expected a PEM certificate with its key" in ended.err
        assert (await gateway(*verb, "--client-key", "mine.key")).code == 2
        for name, file in (
            ("CA", "ca.pem"),
            ("CLIENT_CERT", "mine.pem"),
            ("CLIENT_KEY", "mine.key"),
        ):
            monkeypatch.setenv(f"GATEWAY_{name}", file)
        assert (await gateway(*verb[:4])).code == 0
    finally:
        await server.close()
    assert len(admin.asked) == 3


def write_certificate(folder: Path) -> None:
    """Write a self-signed certificate for localhost and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


async def test_every_call_is_one_that_the_api_has(admin: FakeAdmin) -> None:
    """Made against the API's own table: methods, paths, queries and the models of both sides."""
    calls: list[Callable[[AdminClient], Awaitable[object]]] = [
        lambda client: client.ready(),
        lambda client: client.status(),
        lambda client: client.traffic(),
        lambda client: client.set_traffic(CHANGE),
        lambda client: client.finalize(models.FinalizeRequest()),
        lambda client: client.rollback(models.RollbackRequest()),
        lambda client: client.adopt(models.AdoptRequest(color="green")),
        lambda client: client.set_pool("s", "green", models.PoolChange(endpoints=["http://a"])),
        lambda client: client.reset_pool("s", "green", reason="r"),
        lambda client: client.drain_pool("s", "green", models.DrainRequest()),
        lambda client: client.isolate("s", models.IsolateRequest(color="green")),
        lambda client: client.lift("s", "green", reason="r"),
        lambda client: client.maintain("s", models.MaintenanceRequest()),
        lambda client: client.end_maintenance("s", reason="r"),
        lambda client: client.breakers(),
        lambda client: client.open_breaker("e", breaker_models.BreakerOpen()),
        lambda client: client.reset_breaker("e", breaker_models.BreakerReset()),
        lambda client: client.reload(reason="r"),
        lambda client: client.audit(limit=1, before=2),
        lambda client: client.start_release(release_models.ReleaseStart()),
        lambda client: client.releases(limit=1, before=2),
        lambda client: client.release("r"),
        lambda client: client.decisions("r"),
        lambda client: client.steer_release("r", "pause", release_models.ReleaseVerb()),
        lambda client: client.steer_release("r", "resume", release_models.ReleaseVerb()),
        lambda client: client.steer_release("r", "abort", release_models.ReleaseVerb()),
        lambda client: client.steer_release("r", "finalize", release_models.ReleaseVerb()),
        lambda client: client.promote_release("r", release_models.ReleasePromote()),
        lambda client: client.renew_release("r"),
    ]
    names = {"service": "s", "slot": "green", "endpoint": "e", "id": "r"}
    paths = {(call.method, call.path.format(**names)): call for call in CALLS}
    for method, path in paths:
        admin.problem(method, path, 418, "teapot")
    for call in calls:
        async with AdminClient(link_to(admin)) as client:
            with pytest.raises(AdminError, match="teapot"):
                await call(client)
        asked = admin.asked[-1]
        known = paths[asked.method, asked.path]
        parameters = {each.name for each in known.parameters if each.where == "query"}
        assert set(asked.query) <= parameters
        assert (known.body is not None) == bool(asked.body)
        if known.body is not None:
            known.body.model_validate_json(asked.body)
        # An unguarded call does not know the key; a write that is guarded must bear one.
        assert ("Idempotency-Key" in asked.headers) == known.guarded


async def test_redirects_are_not_followed_with_the_token(admin: FakeAdmin) -> None:
    async def elsewhere(request: web.Request) -> web.Response:
        del request
        return web.Response(status=307, headers={"Location": f"{admin.url}/v1/traffic"})

    app = web.Application()
    app.router.add_get("/v1/traffic", elsewhere)
    server = TestServer(app)
    await server.start_server()
    try:
        link = Link(address=parse_admin(f"http://127.0.0.1:{server.port}"), token=TOKEN)
        async with AdminClient(link) as client:
            with pytest.raises(AdminError):
                await client.traffic()
    finally:
        await server.close()
    assert admin.asked == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:9090", Address(base="http://127.0.0.1:9090")),
        ("http://localhost:9090/", Address(base="http://localhost:9090")),
        ("http://[::1]:9090", Address(base="http://[::1]:9090")),
        ("https://gw.example", Address(base="https://gw.example")),
        ("unix:/run/a.sock", Address(base="http://localhost", socket="/run/a.sock")),
        ("unix:///run/a.sock", Address(base="http://localhost", socket="/run/a.sock")),
        ("unix:var/a.sock", Address(base="http://localhost", socket="var/a.sock")),
    ],
)
def test_admin_addresses(text: str, expected: Address) -> None:
    assert parse_admin(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "unix:", "ftp://x", "http://gw.example:9090", "http://10.0.0.1", "http://x:99999",
     "https://u:p@gw.example", "https://gw.example/path", "https://gw.example?x", "http://"],
)  # fmt: skip
def test_addresses_that_are_none_or_would_leak_the_token(text: str) -> None:
    with pytest.raises(click.BadParameter):
        parse_admin(text)


def test_no_link_shows_its_token() -> None:
    assert TOKEN not in repr(Link(address=Address(base="http://localhost"), token=TOKEN))


# --- the running demo ---------------------------------------------------------------------------

DEMO = ClientFile(
    admin="http://127.0.0.1:9191",
    token="token-of-the-demo",
    pid=os.getpid(),
    public="http://127.0.0.1:8080",
    config="var/demo/gateway.yaml",
)


def found(folder: Path, admin: str | None = None, **environment: str) -> tuple[str, str]:
    environment.setdefault("XDG_RUNTIME_DIR", str(folder / "runtime"))
    address, token = resolve(admin, None, folder, environment)
    return str(address), token


def test_a_demo_is_found_in_its_folder_and_from_elsewhere(tmp_path: Path) -> None:
    running_demo.write(tmp_path / running_demo.FOLDER_FILE, DEMO)
    assert found(tmp_path) == (DEMO.admin, DEMO.token)
    (tmp_path / running_demo.FOLDER_FILE).unlink()
    elsewhere = running_demo.user_file({"XDG_RUNTIME_DIR": str(tmp_path / "runtime")})
    assert elsewhere is not None
    running_demo.write(elsewhere, DEMO)
    assert found(tmp_path) == (DEMO.admin, DEMO.token)


@pytest.mark.parametrize(
    ("environment", "path"),
    [
        ({"XDG_RUNTIME_DIR": "/run/u", "HOME": "/home/u"}, "/run/u/gateway/demo.json"),
        ({"XDG_CACHE_HOME": "/cache", "HOME": "/home/u"}, "/cache/gateway/demo.json"),
        ({"HOME": "/home/u"}, "/home/u/.cache/gateway/demo.json"),
        ({}, None),
    ],
)
def test_where_a_demo_of_this_user_is_told(environment: dict[str, str], path: str | None) -> None:
    assert running_demo.user_file(environment) == (Path(path) if path else None)


def test_what_is_said_wins_over_a_demo(tmp_path: Path) -> None:
    running_demo.write(tmp_path / running_demo.FOLDER_FILE, DEMO)
    assert found(tmp_path, GATEWAY_TOKEN="mine") == ("http://127.0.0.1:9090", "mine")
    assert found(tmp_path, "127.0.0.1:9191") == (DEMO.admin, DEMO.token)
    with pytest.raises(click.UsageError):
        found(tmp_path, "127.0.0.1:9192")


def test_a_dead_demos_file_is_ignored(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    path = tmp_path / running_demo.FOLDER_FILE
    running_demo.write(path, ClientFile(**{**_fields(DEMO), "pid": child.pid}))  # type: ignore[arg-type]  # the fields as they were
    with pytest.raises(click.UsageError):
        found(tmp_path)


def _fields(content: ClientFile) -> dict[str, object]:
    return {name: getattr(content, name) for name in content.__struct_fields__}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_may_read_is_not_trusted(tmp_path: Path, mode: int) -> None:
    path = tmp_path / running_demo.FOLDER_FILE
    running_demo.write(path, DEMO)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(mode)
    with pytest.raises(click.UsageError):
        found(tmp_path)


def test_only_its_own_file_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "client.json"
    running_demo.write(path, DEMO)
    running_demo.remove(path, DEMO.pid + 1)
    assert path.exists()
    running_demo.remove(path, DEMO.pid)
    assert not path.exists()
    running_demo.remove(path, DEMO.pid)
