"""Bodies and interim answers: chunks both ways, trailers, 1xx, HEAD, early answers."""

from __future__ import annotations

import pytest

from tests.support.rig import Rig

POST = b"POST / HTTP/1.1\r\nHost: a.example\r\n"


def test_content_of_a_length_goes_there(rig: Rig) -> None:
    rig.client.send(POST + b"Content-Length: 5\r\n\r\nhello")
    head = rig.backend().request
    assert b"Content-Length: 5\r\n" in head
    assert b"Transfer-Encoding" not in head
    assert rig.backend().take() == b"hello"
    rig.backend().ok()
    assert rig.client.answer().status == 200
    assert rig.log[0]["received"] == 5
    rig.over([200])


def test_content_goes_on_while_it_comes(rig: Rig) -> None:
    rig.client.send(POST + b"Content-Length: 6\r\n\r\nabc")
    rig.backend().request  # noqa: B018  takes the head
    assert rig.backend().take() == b"abc"
    rig.client.send(b"def")
    assert rig.backend().take() == b"def"
    rig.backend().ok()
    rig.over([200])


def test_content_that_comes_before_the_connection_waits_for_it(rig: Rig) -> None:
    rig.client.send(POST + b"Content-Length: 6\r\n\r\nabc")
    rig.client.send(b"def")
    assert rig.dialling == 1
    assert rig.backend().sent.endswith(b"\r\n\r\nabcdef")
    rig.backend().ok()
    assert rig.client.answer().status == 200
    rig.over([200])


def test_chunks_go_both_ways_with_their_trailers(rig: Rig) -> None:
    rig.client.send(
        POST
        + b"Transfer-Encoding: chunked\r\nTE: trailers\r\n\r\n"
        + b"3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 5\r\nContent-Length: 1\r\n\r\n"
    )
    head = rig.backend().request
    assert b"Transfer-Encoding: chunked\r\n" in head
    assert b"Content-Length" not in head
    sent = rig.backend().take()
    assert b"ext" not in sent
    assert sent.endswith(b"0\r\nx-sum: 5\r\n\r\n")
    rig.backend().answers(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Left\r\n\r\n"
        b"1\r\nz\r\n0\r\nX-Left: 0\r\nSet-Cookie: a=b\r\n\r\n"
    )
    answer = rig.client.answer()
    assert answer.body == b"z"
    assert answer.trailers == ((b"x-left", b"0"),)
    rig.client.get()
    rig.backend().ok()
    assert len(rig.backends) == 1
    rig.over([200, 200])


def test_an_answer_goes_on_while_it_comes(rig: Rig) -> None:
    rig.client.get()
    rig.backend().answers(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
    assert rig.client.received.endswith(b"\r\n\r\n")
    for event in (b"data: 1\n\n", b"data: 2\n\n"):
        before = len(rig.client.received)
        rig.backend().answers(event)
        new = rig.client.received[before:]
        # Each in chunks of its own, at once.
        assert sum(len(part) for part in new.split(b"\r\n")[1::2]) == len(event)
    rig.backend().ends()
    assert rig.client.answer().body == b"data: 1\n\ndata: 2\n\n"
    assert rig.client.open
    rig.over([200])


def test_an_answer_until_close_is_whole_when_the_backend_ends(rig: Rig) -> None:
    rig.client.get()
    rig.backend().answers(b"HTTP/1.0 200 OK\r\n\r\nall of it")
    rig.backend().ends()
    answer = rig.client.answer()
    assert (answer.minor, answer.body) == (1, b"all of it")
    assert rig.backend().closed
    rig.client.get()
    assert rig.dialling == 1
    rig.backend().ok()
    rig.over([200, 200])


def test_an_answer_until_close_that_is_reset_is_cut(rig: Rig) -> None:
    rig.client.get()
    rig.backend().answers(b"HTTP/1.1 200 OK\r\n\r\nhalf")
    rig.backend().resets()
    assert rig.client.cut
    assert not rig.client.received.endswith(b"0\r\n\r\n")
    assert rig.log[0]["error"] == "truncated"
    rig.over([200])


def test_100_continue_is_relayed(rig: Rig) -> None:
    rig.client.send(POST + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert b"Expect: 100-continue\r\n" in rig.backend().request
    assert rig.client.received == b""
    rig.backend().answers(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert rig.client.answer().status == 100
    rig.client.send(b"ok")
    assert rig.backend().take() == b"ok"
    rig.backend().ok()
    assert rig.client.answer().status == 200
    rig.over([200])


def test_a_final_answer_in_place_of_100_closes(rig: Rig) -> None:
    rig.client.send(POST + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    rig.backend().answers(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")
    answer = rig.client.answer()
    assert (answer.status, answer.field(b"connection")) == (401, b"close")
    # Whether the two octets come now or never: nothing takes them for a request.
    rig.client.send(b"ok")
    assert rig.client.received == b""
    rig.client.ends()
    assert rig.client.closed
    rig.over([401])


def test_interim_answers_are_relayed(rig: Rig) -> None:
    rig.client.get()
    rig.backend().answers(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: x\r\n\r\n"
        b"HTTP/1.1 102 Processing\r\n\r\n"
    )
    hints = rig.client.answer()
    assert (hints.status, hints.fields) == (103, ((b"link", b"</a.css>"),))
    assert rig.client.answer().status == 102
    rig.backend().ok()
    assert rig.client.answer().status == 200
    rig.over([200])


def test_interim_answers_are_nothing_to_http_1_0(rig: Rig) -> None:
    rig.client.send(b"GET / HTTP/1.0\r\n\r\n")
    rig.backend().answers(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n").ok()
    assert rig.client.answer().status == 200
    rig.over([200])


def test_too_many_interim_answers_are_a_bad_answer(rig: Rig) -> None:
    rig.client.get()
    rig.backend().answers(b"HTTP/1.1 102 Processing\r\n\r\n" * 17)
    answers = rig.client.answers()
    assert [a.status for a in answers] == [102] * 16 + [502]
    assert rig.backend().cut
    rig.over([502])


@pytest.mark.parametrize(
    "fields", ["Content-Length: 7\r\n", "Transfer-Encoding: chunked\r\n", ""], ids=str.strip
)
def test_an_answer_to_head_has_no_content(rig: Rig, fields: str) -> None:
    rig.client.send(b"HEAD / HTTP/1.1\r\nHost: a.example\r\n\r\n")
    rig.backend().answers(f"HTTP/1.1 200 OK\r\n{fields}\r\n".encode())
    answer = rig.client.answer(to_head=True)
    assert answer.status == 200
    assert answer.field(b"content-length") == (b"7" if "Length" in fields else None)
    rig.client.get()
    rig.backend().ok()
    assert rig.client.answer().status == 200
    rig.over([200, 200])


@pytest.mark.parametrize("status", [204, 304])
def test_answers_that_have_no_content(rig: Rig, status: int) -> None:
    rig.client.get()
    rig.backend().answers(f"HTTP/1.1 {status} X\r\nContent-Length: 3\r\n\r\n".encode())
    answer = rig.client.answer()
    assert answer.status == status
    # RFC 9110 section 8.6: never in a 204; in a 304 it tells of the representation.
    assert answer.field(b"content-length") == (b"3" if status == 304 else None)
    rig.client.get()
    rig.backend().ok()
    assert rig.client.answer().status == 200
    assert len(rig.backends) == 1
    rig.over([status, 200])


def test_an_empty_reason_keeps_its_blank(rig: Rig) -> None:
    rig.client.get()
    rig.backend().answers(b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n")
    assert rig.client.received.startswith(b"HTTP/1.1 200 \r\n")
    rig.over([200])


def test_an_early_answer_reaches_a_client_that_still_sends(rig: Rig) -> None:
    rig.client.send(POST + b"Content-Length: 1000000\r\n\r\nfirst")
    backend = rig.backend()
    backend.answers(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
    answer = rig.client.answer()
    assert (answer.status, answer.body, answer.field(b"connection")) == (413, b"big", b"close")
    # The backend would take the rest for a request: its connection is not used again.
    assert backend.closed
    # The client goes on sending and must not be reset before it has read the answer.
    rig.client.send(b"x" * 100)
    assert rig.client.open
    assert rig.client.transport.eof_sent
    rig.advance(2.5)
    assert rig.client.closed
    rig.over([413])


def test_a_client_that_never_stops_sending_is_cut_after_an_early_answer(whole: Rig) -> None:
    rig = whole
    rig.client.send(POST + b"Content-Length: 10000000\r\n\r\n")
    rig.backend().answers(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    for _ in range(17):
        rig.client.send(b"x" * 65536)
    assert rig.client.cut
    rig.over([413])


def test_an_early_answer_may_take_its_time(rig: Rig) -> None:
    rig.client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
    rig.backend().answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nA\r\n")
    rig.client.send(b"1\r\nb\r\n")
    assert rig.backend().take().endswith(b"1\r\nb\r\n")
    rig.backend().answers(b"1\r\nB\r\n")
    rig.client.send(b"0\r\n\r\n")
    rig.backend().answers(b"0\r\n\r\n")
    answer = rig.client.answer()
    assert (answer.body, answer.field(b"connection")) == (b"AB", b"close")
    assert rig.client.closed
    rig.over([200])


def test_a_slow_reader_gets_all_of_an_early_answer(whole: Rig) -> None:
    """Closing must wait for what the client has not read yet, for as long as it reads."""
    rig = whole
    rig.client.send(POST + b"Content-Length: 1000000\r\n\r\nfirst")
    rig.client.transport.stuck = True
    rig.backend().ok(b"x" * 50_000)
    for _ in range(10):
        rig.advance(1.5)
        assert rig.client.open
        rig.client.transport.drain(5_000)
    rig.advance(0.5)
    rig.client.transport.drain()
    assert len(rig.client.answer().body) == 50_000
    rig.advance(5)
    assert rig.client.closed
    rig.over([200])
