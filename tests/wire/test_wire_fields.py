"""Names are recognised by a table without collisions, in any letter case, and only in full."""

from __future__ import annotations

import random

import pytest

from gateway.wire import fields
from gateway.wire.fields import BY_NAME, FOLD, MULTIPLIERS, NAMES, TABLE, TABLE_SIZE, place
from gateway.wire.head import Head, parse_request, parse_response

KNOWN = NAMES[1:]


def _trailers(*names: bytes) -> Head:
    head = Head(b"".join(name + b": v\r\n" for name in names) + b"\r\n", 0)
    assert head.read_trailers()
    return head


def test_every_name_has_a_place_of_its_own() -> None:
    places = [place(name, MULTIPLIERS) for name in KNOWN]
    assert len(set(places)) == len(KNOWN)
    assert len(TABLE) == TABLE_SIZE
    assert [TABLE[at] for at in places] == list(range(1, len(NAMES)))
    assert sum(number != 0 for number in TABLE) == len(KNOWN)


def test_the_names_fit_their_mask_and_are_different() -> None:
    assert len(NAMES) <= 64
    assert len(set(NAMES)) == len(NAMES)
    assert all(name == name.lower() and len(name) >= 2 for name in KNOWN)
    # Two known names that differ in `-` and `_` alone would be each other's impostors.
    assert len({name.translate(FOLD) for name in KNOWN}) == len(KNOWN)


def test_the_constants_are_the_numbers_of_their_names() -> None:
    for name, number in BY_NAME.items():
        assert getattr(fields, name.decode().upper().replace("-", "_")) == number


@pytest.mark.parametrize("name", KNOWN)
def test_a_name_is_recognised_in_any_case(name: bytes) -> None:
    chance = random.Random(name)
    forms = {name, name.upper(), name.title(), name.swapcase()}
    while len(forms) < min(12, 2 ** sum(chr(octet).isalpha() for octet in name)):
        forms.add(bytes(chance.choice((octet, *bytes((octet,)).upper())) for octet in name))
    for form in forms:
        head = _trailers(form)
        assert head.seen == 1 << BY_NAME[name], form
        assert head.get(BY_NAME[name]) == b"v"
        assert head.get_all(BY_NAME[name]) == [b"v"]
        assert head.find(name) == b"v"
        assert not head.repeated


def _near(name: bytes) -> set[bytes]:
    """Return what a hurried comparison takes for the name."""
    near = {name + b"x", b"x" + name, name[:-1], name[1:], name + b"-", name + name, name[::-1]}
    for at in range(len(name)):
        near.add(name[:at] + name[at + 1 :])
        near.add(name[:at] + name[at : at + 1] + name[at:])
        for octet in b"x!^~`|'09":
            near.add(name[:at] + bytes((octet,)) + name[at + 1 :])
    near.add(name.replace(b"-", b""))
    return {form for form in near if form and form.lower() not in BY_NAME}


@pytest.mark.parametrize("name", KNOWN)
def test_a_near_miss_is_not_recognised(name: bytes) -> None:
    for form in _near(name):
        head = _trailers(form)
        assert head.seen == 0, form
        assert head.get(BY_NAME[name]) is None
        assert head.find(name) is None
        assert head.render(b"", 0, b"") == form + b": v\r\n\r\n"


def _swapped(name: bytes) -> set[bytes]:
    """Return the name with `-` and `_` exchanged: everywhere, and at each place alone."""
    swap = bytes.maketrans(b"-_", b"_-")
    forms = {name.translate(swap)}
    for at, octet in enumerate(name):
        if octet in b"-_":
            forms.add(name[:at] + bytes((octet,)).translate(swap) + name[at + 1 :])
    return forms - {name}


@pytest.mark.parametrize("name", [name for name in KNOWN if _swapped(name)])
def test_an_impostor_is_not_the_field_and_goes_no_further(name: bytes) -> None:
    """CGI's variables (RFC 3875 section 4.1.18) make no difference between ``-`` and ``_``."""
    for form in _swapped(name):
        for lines in ((form,), (form.title(), b"A")):
            head = parse_request(
                b"GET / HTTP/1.0\r\n" + b"".join(line + b": v\r\n" for line in lines) + b"\r\n"
            )
            assert head is not None
            assert (head.seen, head.body, head.persistent) == (0, 0, False), form
            assert head.find(form) == b"v"
            assert head.render(b"", 0, b"") == b"A: v\r\n" * (len(lines) - 1) + b"\r\n"


def test_an_impostor_in_an_answer_is_a_field_like_others() -> None:
    head = parse_response(b"HTTP/1.1 200 OK\r\nContent_Length: 5\r\n\r\n")
    assert head is not None
    assert head.length == -1
    assert head.render(b"", 0, b"") == b"Content_Length: 5\r\n\r\n"


def test_names_shorter_than_the_hash_wants_are_unknown() -> None:
    head = _trailers(b"t", b"e", b"-", b"_", b"te")
    assert head.seen == 1 << fields.TE
    assert head.count == 5


def test_repeats_are_marked_and_the_first_is_given() -> None:
    head = Head(b"Via: a\r\nA: b\r\nVIA: c\r\nTE: d\r\nvia:\r\n\r\n", 0)
    assert head.read_trailers()
    assert head.seen == fields.mask(fields.VIA, fields.TE)
    assert head.repeated == fields.mask(fields.VIA)
    assert head.get(fields.VIA) == b"a"
    assert head.get_all(fields.VIA) == [b"a", b"c", b""]
    assert head.get_all(fields.HOST) == []
    assert head.find(b"a") == b"b"
    assert head.find(b"b") is None
