"""What is printed: colors, widths, units, and text that must not move a cursor."""

from __future__ import annotations

import io

import pytest

from gateway.cli.output import colored, console, duration, percent, safe, table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> str:
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "60")
    console().print(table(["color", "text"], [[colored("green"), "word " * 30]]))
    return stream.getvalue()


def test_colors_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in printed(monkeypatch, Terminal())
    assert "\x1b[" not in printed(monkeypatch, io.StringIO())


def test_no_color_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    text = printed(monkeypatch, Terminal())
    assert "\x1b[3" not in text  # no color; bold headings may stay


def test_nothing_is_cut_for_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(monkeypatch, io.StringIO())
    assert ("word " * 30).strip() in text
    assert ("word " * 30).strip() not in printed(monkeypatch, Terminal())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünïcode", "plain ünïcode"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("line\nline\r", r"line\nline\r"),
        ("\u202eback", r"\u202eback"),
    ],
)
def test_control_characters_are_written_out(text: str, shown: str) -> None:
    assert safe(text) == shown


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0 %"), (5.0, "5 %"), (0.05, "0.05 %"), (99.95, "99.95 %"), (100.0, "100 %"),
     (12.5, "12.5 %")],
)  # fmt: skip
def test_percentages(value: float, text: str) -> None:
    assert percent(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (119.0, "119 s"), (120.0, "2 m"), (7200.0, "2 h"), (900_000.0, "10 d")],
)
def test_uptimes(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_markup_in_text_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stdout", stream)
    console().print(table(["a"], [["[red]not red[/red] :smile:"]]))
    assert "[red]not red[/red] :smile:" in stream.getvalue()
