"""The documentation is true: links resolve, commands exist, examples are the files themselves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from gateway.cli import VERBS
from tests.support.processes import ROOT

PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> list[str]:
    return [text for language, text in FENCE.findall(page.read_text()) if language in languages]


def anchor(heading: str) -> str:
    """Return a heading's anchor as the usual renderers make it."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


def broken_links(page: Path) -> list[str]:
    found = []
    prose = FENCE.sub("", page.read_text())
    for link in LINK.findall(prose):
        target, _, fragment = link.partition("#")
        if ":" in target or page.name == "template.md":
            continue
        path = (page.parent / target).resolve() if target else page
        if not path.exists():
            found.append(link)
        elif fragment and path.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text()), re.MULTILINE)
            if fragment not in {anchor(heading) for heading in headings}:
                found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_relative_link_resolves(page: Path) -> None:
    assert not broken_links(page)


def test_a_broken_link_would_be_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One\n[a](missing.md) [b](#one) [c](#two) [d](https://example.org/x)\n")
    assert broken_links(page) == ["missing.md", "#two"]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_verb_and_make_target_that_is_shown_exists(page: Path) -> None:
    shown = "\n".join(blocks(page, "sh", "bash", "console", "shell"))
    shown += "\n" + "\n".join(re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text())))
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    verbs = re.findall(r"(?:^|/| )gateway ([a-z][a-z-]+)", shown, re.MULTILINE)
    # `docker compose exec gateway gateway VERB` names the service first.
    unknown = {verb for verb in verbs if verb not in VERBS and verb != "gateway"}
    assert not unknown
    assert not {t for t in re.findall(r"(?:^|\s)make ([a-z]+)", shown) if t not in targets}


@pytest.mark.parametrize("file", ["quickstart.yaml", "container.yaml"])
def test_the_readmes_configurations_are_the_files(file: str) -> None:
    text = (ROOT / "config" / file).read_text()
    assert text in blocks(ROOT / "README.md", "yaml")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 10, "ten lines are promised"


def test_the_configurations_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    from gateway.config.load import load_file

    monkeypatch.setenv("GATEWAY_TOKEN", "t" * 40)
    for file in ("quickstart.yaml", "container.yaml"):
        config = load_file(ROOT / "config" / file, os.environ)
        assert list(config.services) == ["web"]


def test_the_readmes_first_screen_says_what_it_must() -> None:
    screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:30])
    for wanted in ("make run", "make test", "gateway traffic set", "Python 3.11", "For small"):
        assert wanted in screen


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert {page for page in pages if f"({page})" not in index} == set()
    decisions = (ROOT / "docs" / "adr" / "README.md").read_text()
    numbered = {page.name for page in (ROOT / "docs" / "adr").glob("0*.md")}
    assert {page for page in numbered if f"({page})" not in decisions} == set()


def test_decisions_have_the_templates_parts() -> None:
    for page in (ROOT / "docs" / "adr").glob("0*.md"):
        text = page.read_text()
        number = page.name.split("-")[0]
        assert text.startswith(f"# {number}. "), page.name
        for part in ("- status: ", "- date: ", "## The question", "## The decision"):
            assert part in text, (page.name, part)


def test_the_changelog_keeps_its_form() -> None:
    lines = (ROOT / "CHANGELOG.md").read_text().splitlines()
    assert lines[0] == "# Changelog"
    versions = [line for line in lines if line.startswith("## ")]
    assert versions[0] == "## [Unreleased]"
    for line in versions[1:]:
        assert re.fullmatch(r"## \[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", line), line
    kinds = {line.removeprefix("### ") for line in lines if line.startswith("### ")}
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_yaml_that_is_shown_parses(page: Path) -> None:
    for text in blocks(page, "yaml"):
        yaml.safe_load(text)
