"""Files that answers are made of: read at load, bounded, and wrong ones told with their place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.config import snapshot
from gateway.config.build import build_topology
from gateway.config.load import ConfigErrors, parse_text
from gateway.config.pages import MAX_PAGE
from gateway.config.templates import NAMES, Template, is_template, media_type

KNOWN = ", ".join(NAMES)

BASE = """\
services:
  web:
    blue: {endpoints: ["http://127.0.0.1:3001"]}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(text: str, *, read_pages: bool | None = None) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        parse_text(text.encode(), "f", {}, read_secrets=False, read_pages=read_pages)
    return str(caught.value).splitlines()


def topology(text: str) -> snapshot.Topology:
    config = parse_text(text.encode(), "f", {}).config
    return build_topology(config, number=1, pools=(), rows={"web": 1})


def test_a_fallback_is_built_with_its_file(folder: Path) -> None:
    (folder / "ivor.json").write_bytes(b"{}")
    built = topology(
        BASE + "    fallback:\n"
        '      - stale: {max_age: 1h, paths: ["/a*"], shared: true}\n'
        "      - static: {status: 203, file: ivor.json, fields: {X-A: b}, methods: [GET]}\n"
    )
    assert built.services[0].fallbacks == (
        snapshot.Fallback(kind="stale", paths=("/a*",), max_age=3600.0, shared=True),
        snapshot.Fallback(
            kind="static",
            status=203,
            file=0,
            type="application/json",
            methods=("GET",),
            fields=(("X-A", "b"),),
        ),
    )
    assert built.files == (b"{}",)


def test_equal_files_travel_once(folder: Path) -> None:
    for name in ("a.html", "b.html", "c.html.tmpl"):
        (folder / name).write_bytes(b"<p>" if name != "c.html.tmpl" else b"{{status}}")
    built = topology(
        BASE + "    error_pages:\n"
        "      - {on: [5xx], files: [{file: a.html}, {file: b.html, type: text/plain}]}\n"
        "error_pages: [{on: [404], intercept: true, files: [{file: c.html.tmpl}]}]\n"
    )
    form = snapshot.PageForm(type="text/html; charset=utf-8", file=0)
    plain = snapshot.PageForm(type="text/plain", file=0)
    assert built.services[0].error_pages == (snapshot.ErrorPage(on=("5xx",), forms=(form, plain)),)
    filled = snapshot.PageForm(type="text/html; charset=utf-8", file=1, template=True)
    assert built.error_pages == (snapshot.ErrorPage(on=("404",), forms=(filled,), intercept=True),)
    assert built.files == (b"<p>", b"{{status}}")


def test_a_file_that_is_too_large_is_told_where_it_is_named(folder: Path) -> None:
    (folder / "big.html").write_bytes(b"x" * (MAX_PAGE + 1))
    (folder / "right.html").write_bytes(b"x" * MAX_PAGE)
    text = BASE + "    fallback: [{static: {file: right.html}}, {static: {file: big.html}}]\n"
    assert "\n".join(told(text, read_pages=True)) == (
        "f:4:62: services.web.fallback[1].static.file: 'big.html' is too large, expected at most "
        f"{MAX_PAGE // 1024**2}MiB"
    )


def test_too_much_in_all_is_told_at_the_one_that_is_too_much(folder: Path) -> None:
    items = []
    for index in range(17):
        (folder / f"{index}.html").write_bytes(b"%02d" % index + b"x" * (MAX_PAGE - 2))
        items.append(f"      - static: {{file: {index}.html}}\n")
    text = BASE + "    fallback:\n" + "".join(items)
    assert "\n".join(told(text, read_pages=True)) == (
        "f:21:24: services.web.fallback[16].static.file: with '16.html' all files are too large, "
        "expected at most 16MiB together"
    )


@pytest.mark.parametrize(
    ("content", "keys", "message"),
    [
        (
            b"{{ staus }}",
            "file: a.html, template: true",
            f"'a.html' is no template: '{{{{staus}}}}' is no value, expected one of: {KNOWN}",
        ),
        (
            b"{{status}}",
            "file: a.html, template: true, type: text/plain",
            "'a.html' is no template: a template of text/plain, expected JSON or HTML",
        ),
        (
            b"ab\xff{{status}}",
            "file: a.html, template: true",
            "'a.html' is no template: not UTF-8 at octet 2, expected UTF-8",
        ),
        (
            b"<p>{{status</p>",
            "file: a.html, template: true",
            "'a.html' is no template: a {{ without its }}, expected {{name}}",
        ),
        (
            b'{"a": ',
            "file: a.html, type: application/json",
            "'a.html' is not JSON, expected what its type says",
        ),
        (
            b'{"status": {{status}}, "title": {{title}}}',
            "file: a.html, template: true, type: application/json",
            "'a.html' is not JSON once it is filled in, expected what its type says",
        ),
        (
            b'{"wait": {{retry_after}}}',
            "file: a.html, template: true, type: application/json",
            "'a.html' is not JSON once it is filled in, expected what its type says",
        ),
        (
            b"",
            "file: a.unknown",
            "'a.unknown' has no extension that tells its type, expected a type",
        ),
    ],
)
def test_what_is_no_template_is_told(folder: Path, content: bytes, keys: str, message: str) -> None:
    for name in ("a.html", "a.unknown"):
        (folder / name).write_bytes(content)
    text = BASE + f"error_pages: [{{on: [5xx], files: [{{{keys}}}]}}]\n"
    assert told(text, read_pages=True) == [f"f:4:42: error_pages[0].files[0].file: {message}"]


def test_without_reading_pages_a_missing_one_is_no_fault() -> None:
    text = BASE + "    fallback: [{static: {file: nowhere.html}}]\n"
    config = parse_text(text.encode(), "f", {}, read_secrets=False).config
    assert config.pages == {}


@pytest.mark.parametrize("name", ["fifo", "/dev/zero", "folder", "loop", "nowhere", "x" * 300])
def test_what_is_no_file_is_told_and_nothing_waits(folder: Path, name: str) -> None:
    os.mkfifo(folder / "fifo")
    (folder / "folder").mkdir()
    (folder / "loop").symlink_to("loop")
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    text = BASE + f"    fallback: [{{static: {{file: {name}, type: text/plain}}}}]\n"
    (line,) = told(text, read_pages=True)
    assert "cannot be read" in line
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


def test_a_file_that_is_named_twice_is_told_twice_and_read_once() -> None:
    text = BASE + "    fallback: [{static: {file: no.html}}, {static: {file: no.html}}]\n"
    assert [line.split(":")[2] for line in told(text, read_pages=True)] == ["32", "59"]


# --- templates ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "given", "expected"),
    [
        ("a.html", None, "text/html; charset=utf-8"),
        ("a.HTML.tmpl", None, "text/html; charset=utf-8"),
        ("x/y.json", None, "application/json"),
        ("plain", "text/x-own", "text/x-own"),
    ],
)
def test_a_type_is_given_or_the_extensions(file: str, given: str | None, expected: str) -> None:
    assert media_type(file, given) == expected


def test_a_file_is_a_template_by_its_name_or_because_it_is_said() -> None:
    assert is_template("a.html.tmpl", None)
    assert not is_template("a.html", None)
    assert is_template("a.html", True)
    assert not is_template("a.html.tmpl", False)


def test_html_is_escaped_for_text_and_quoted_attributes() -> None:
    made = Template(b'<a title="{{service}}">{{ title }}</a>', "text/html; charset=utf-8")
    assert made.render({"service": "\"'<&", "title": "</a>"}) == (
        b'<a title="&quot;&#x27;&lt;&amp;">&lt;/a&gt;</a>'
    )


@pytest.mark.parametrize("kind", ["application/json", "application/problem+json; charset=utf-8"])
def test_json_is_escaped_for_the_inside_of_a_string(kind: str) -> None:
    made = Template(b'{"a": "{{title}}", "b": {{status}}}', kind)
    assert made.render({"title": 'a"\\\n</script>\u2028', "status": "503"}) == (
        b'{"a": "a\\"\\\\\\n\\u003c/script\\u003e\\u2028", "b": 503}'
    )


def test_a_value_that_is_not_given_is_empty_and_single_braces_stand() -> None:
    assert Template(b"{a} {{retry_after}}}", "text/html").render({}) == b"{a} }"
