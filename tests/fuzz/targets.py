"""A request, or one refusal, never another exception: that is what every target here promises.

Each target takes octets from a stranger and lets nothing pass but the one error that its reader is
documented to raise. It also holds the reader to what must be true of whatever it did accept: the
same outcome whole and cut, and nothing in a field that could end it.

``tests/fuzz/run.py`` drives them by coverage (atheris); ``test_fuzz_targets.py`` replays what was
found worth keeping, in both forms of the hot modules, and goes on for seconds.
"""

from __future__ import annotations

import functools
import gc
import types
from collections.abc import Callable, Iterator
from typing import Any, Final, get_args

import h11

from gateway.admin.auth import bearer, host_accepted
from gateway.admin.calls import CALLS
from gateway.admin.inbound import _body, _key, _revisions
from gateway.admin.problems import ProblemError
from gateway.config.snapshot import Cohort
from gateway.policy import cohort, forwarded, override, trace
from gateway.policy.caching import conditions, dates, directives
from gateway.wire import target as targets
from gateway.wire.errors import WireError
from tests.support.rig import EPOCH, Rig, topology
from tests.wire.reading import Kind, Read, cut_at, cuts, decode_cut, octets, read_cut, read_whole

#: Up to here a head is also cut in two at every place; above, octet by octet alone.
SHORT: Final = 48
SECRET: Final = b"0123456789abcdef"
TRUST: Final = forwarded.ProxyTrust(("10.0.0.0/8", "fd00::/8", "192.0.2.1/32"))


def _pieces(data: bytes) -> Iterator[tuple[bytes, ...]]:
    if len(data) <= SHORT:
        yield from cuts(data)
    else:
        yield tuple(octets(data))
        yield tuple(cut_at(data, (len(data) // 3, len(data) // 2, len(data) - 1)))


def _refusal(read: Callable[[Any], object], data: Any) -> int | None:
    """Return the status of what a reader refuses, None for what it takes."""
    try:
        read(data)
    except WireError as error:
        return error.status
    except ProblemError as error:
        return error.problem.status
    return None


# --- the wire -------------------------------------------------------------------------------------


def _head(kind: Kind, data: bytes) -> None:
    data = data[: data.rfind(b"\n") + 1]
    if not data:
        return
    whole = read_whole(kind, data)
    for pieces in _pieces(data):
        assert read_cut(kind, pieces) == whole, pieces
    if isinstance(whole, Read):
        for name, value in whole.fields:
            assert not {0, 10, 13} & set(value), value
            assert name.isascii(), name
            assert not set(name) & set(b" \t:\r\n\0"), name


def request_head(data: bytes) -> None:
    """A request's head."""
    _head("request", data)


def response_head(data: bytes) -> None:
    """A backend's head."""
    for kind in get_args(Kind):
        if kind != "request":
            _head(kind, data)


def chunked(data: bytes) -> None:
    """A body in the chunked coding."""
    data = data[: data.rfind(b"\n") + 1]
    whole = decode_cut([data])
    for pieces in _pieces(data):
        assert decode_cut(pieces) == whole, pieces


def target(data: bytes) -> None:
    """A request's target, a host, a path of the configuration."""
    for read in (targets.match_path, targets.prefix_path, targets.valid_host):
        assert _refusal(read, data) in {None, 400}
    try:
        strict = targets.match_path(data)
    except WireError:
        return
    assert b"/../" not in strict + b"/"
    assert b"/./" not in strict + b"/"
    careless = targets.lenient_path(strict)
    assert careless.startswith(b"/")
    assert targets.lenient_path(careless) == careless or b"%" in careless
    try:
        _, authority, rest = targets.split_absolute(data)
    except WireError:
        return
    assert b"/" not in authority
    assert rest.startswith(b"/")


# --- fields ---------------------------------------------------------------------------------------


def _one_line(block: bytes, lines: int) -> None:
    assert block.count(b"\r\n") == block.count(b"\r") == block.count(b"\n") == lines, block


def _value(data: bytes) -> bytes:
    """Return what a head would hand on of these octets: no control but the tab."""
    return bytes(octet for octet in data if octet == 9 or (octet >= 32 and octet != 127))


def forwarding(data: bytes) -> None:
    """``X-Forwarded-*`` and ``Forwarded`` of a trusted proxy."""
    first, _, second = _value(data).partition(b"|")
    for peer in ("10.0.0.1", "192.0.2.9", ""):
        for xff, field in ((first, second), (None, first), (first, None)):
            chain = TRUST.chain(peer, xff, field)
            host = forwarded.forwarded_host(second, b"a.example")
            block = forwarded.forwarded_block(
                chain[0], peer, forwarded.forwarded_proto(second, b"https"), host, b"", chain[1:]
            )
            _one_line(block, 4)


def cookies(data: bytes) -> None:
    """``Cookie``: reading ours, and handing on the rest without them."""
    field = _value(data)
    names = (b"gw_cohort", b"gw_override")
    left = cohort.strip_cookies(field, names)
    for name in names:
        assert cohort.cookie_value(left, name) is None, (field, left)
    found = cohort.cohort_cookie(field, b"gw_cohort")
    assert found is None or len(found) == cohort.COOKIE_LENGTH
    if not any(cohort.cookie_value(field, name) is not None for name in names):
        assert left == field or not left


def override_tokens(data: bytes) -> None:
    """A tester's token, in a cookie, a field or a query; nobody can make one by chance."""
    field = _value(data)
    for token in (field, override.from_cookie(field), override.from_target(field)):
        if token is not None:
            assert override.verify(SECRET, token, host=b"a", release="1", now=EPOCH) is None
            assert override.verify_probe(SECRET, token, now=EPOCH) is None
            override.expiry(token)
    stripped = override.strip_target(b"/" + field)
    assert override.from_target(stripped) is None


def caching_fields(data: bytes) -> None:
    """What the cache reads: directives, dates, ranges, entity tags."""
    values = [_value(line) for line in data.split(b"\n", 3)]
    directives.request_directives(values, values[0])
    for value in values:
        dates.http_date(value, EPOCH)
        part = conditions.one_range(value, 1000)
        if part is not None and part != conditions.UNSATISFIABLE:
            assert 0 <= part[0] < part[1] <= 1000, part
        conditions.not_modified([value], value, b'"a"', value, EPOCH)
        conditions.range_applies(value, b'"a"', b"")


def tracing(data: bytes) -> None:
    """``traceparent`` and ``X-Request-ID``."""
    value = _value(data)
    made = trace.continue_or_begin(value, b"0123456789abcdef" * 3)
    assert len(made) == 55
    assert made.isascii()
    if trace.valid_request_id(data):
        _one_line(data, 0)


# --- the admin API --------------------------------------------------------------------------------


def admin_bodies(data: bytes) -> None:
    """The body and the fields of a call of the admin API: a model, or a problem that is 4xx."""
    for call in CALLS:
        assert _refusal(functools.partial(_body, call), data) in {None, 400, 422}
    text = data.decode("utf-8", "surrogateescape")
    for field in (_revisions, _key):
        assert _refusal(field, text) in {None, 400}
    bearer("Bearer " + text)
    host_accepted(text, ("gw.internal",), unix=False)


# --- the data plane, whole ------------------------------------------------------------------------


def _heads(data: bytes) -> list[int]:
    """Have h11 read the answers of one connection; return their statuses. It raises otherwise."""
    reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=10**6)
    statuses = []
    reader.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    reader.send(h11.EndOfMessage())
    reader.receive_data(data)
    event: Any = reader.next_event()
    while isinstance(event, h11.InformationalResponse):
        statuses.append(event.status_code)
        event = reader.next_event()
    if isinstance(event, h11.Response):
        statuses.append(event.status_code)
    return statuses


def _settled(rig: Rig) -> None:
    """Answer whatever the gateway asks of a backend."""
    for _ in range(64):
        if rig.core.dials:
            rig.accept()
        open_ones = [each for each in rig.backends if each.open and b"\r\n\r\n" in each.sent]
        if not open_ones:
            return
        for backend in open_ones:
            backend.take()
            backend.ok()


def _conversation(data: bytes, *, whole: bool) -> list[int]:
    rig = Rig(octets=not whole)
    try:
        rig.serve(topology(cohort=Cohort(secret=SECRET)))
        client = rig.connect()
        client.send(data)
        _settled(rig)
        first = rig.client.received
        if not client.closed:
            client.ends()
        rig.advance(1.0)
        _settled(rig)
        if first:
            _heads(first)
        rig.over()
        return [line["status"] for line in rig.log]
    finally:
        rig.close()
        del rig
        gc.collect()  # a rig's board is large


def connection(data: bytes) -> None:
    """A client's connection, pipelining and all: nothing left behind, whole or octet by octet."""
    data = data[:1000]
    if data:
        _conversation(data, whole=True)
        _conversation(data, whole=False)


def backend(data: bytes) -> None:
    """A backend's octets: the client gets one well-framed answer, or is cut; nothing is left."""
    data = data[:1000]
    for whole in (True, False):
        rig = Rig(octets=not whole)
        try:
            client = rig.connect()
            client.get()
            peer = rig.backend()
            if data:
                peer.answers(data)
            if peer.open:
                peer.ends()
            rig.advance(1.0)
            if rig.core.dials:  # a second try of one that said nothing
                again = rig.backend()
                again.resets()
            if client.received:
                assert _heads(client.received)
            rig.over()
        finally:
            rig.close()
            del rig
            gc.collect()  # a rig's board is large


Target = Callable[[bytes], None]

TARGETS: Final = types.MappingProxyType(
    {
        each.__name__: each
        for each in (
            request_head,
            response_head,
            chunked,
            target,
            forwarding,
            cookies,
            override_tokens,
            caching_fields,
            tracing,
            admin_bodies,
            connection,
            backend,
        )
    }
)
