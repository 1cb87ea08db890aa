"""The examples and the page about the configuration say what is so."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it has no types of its own
import pytest

from gateway.config import scalars, yaml12
from gateway.config.editor import json_schema
from gateway.config.keys import all_keys
from gateway.config.load import parse_text, read_file
from gateway.config.reference import rewrite

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "configuration.md"
EXAMPLES = sorted((ROOT / "config").glob("*.yaml"))
CONTRACT = Path(__file__).with_name("contract_example.yaml")


def lists(value: object) -> Any:
    """Return data as JSON has it."""
    if isinstance(value, dict):
        return {name: lists(inner) for name, inner in value.items()}
    return [lists(inner) for inner in value] if isinstance(value, tuple) else value


def test_every_key_is_described() -> None:
    assert [key.pattern for key in all_keys() if not key.description.endswith(".")] == []


def test_the_page_has_a_row_for_every_key() -> None:
    """Read from the page itself: headings are sections, rows begin with a key's name."""
    found, section = set(), ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("### "):
            heading = re.match(r"### `(.+)`", line)
            section = f"{heading[1]}." if heading else ""
        row = re.match(r"\| `([A-Za-z0-9_]+)` \|", line)
        if row:
            found.add(section + row[1])
    assert {key.pattern for key in all_keys()} - found == set()


def test_the_pages_reference_is_made_of_the_types() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert rewrite(page) == page, "run: python -m gateway.config.reference docs/configuration.md"


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="no marks"):
        rewrite("# Configuration\n")


def test_the_pages_first_example_is_the_quickstart() -> None:
    example = re.search(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    assert example[1] == (ROOT / "config" / "quickstart.yaml").read_text(encoding="utf-8")


def test_the_quickstart_has_ten_lines() -> None:
    text = (ROOT / "config" / "quickstart.yaml").read_text(encoding="utf-8")
    assert len(text.splitlines()) == 10


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_right_and_warns_of_nothing(path: Path) -> None:
    assert read_file(path, {}, read_secrets=False).warnings == ()


def test_the_examples_are_all_there() -> None:
    assert {"demo.yaml", "gateway.yaml", "quickstart.yaml"} <= {path.name for path in EXAMPLES}


def test_the_production_example_finds_its_secrets() -> None:
    names = ("GATEWAY_PIPELINE_TOKEN", "GATEWAY_MONITOR_TOKEN", "GATEWAY_OPS_TOKEN")
    env = {name: f"{name}-of-a-test" for name in names}
    config = read_file(ROOT / "config" / "gateway.yaml", env).config
    assert set(config.secrets.tokens) == {"pipeline", "monitor", "ops"}


@pytest.mark.parametrize("path", [*EXAMPLES, CONTRACT], ids=lambda path: path.name)
def test_the_schema_for_editors_takes_what_the_check_takes(path: Path) -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(lists(yaml12.parse(path.read_bytes()).data), schema)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("unknown", 1),
        ("limits", {"body": 5}),
        ("limits", {"idle_timeout": "5"}),
        ("workers", "many"),
        ("routes", [{"path": "api", "service": "web"}]),
        ("routes", [{"service": "web", "retry": "on"}]),
        ("services", {}),
        ("services", {"No!": {}}),
        ("services", {"web": {"blue": {"endpoints": ["x"]}}}),
        ("services", {"web": {"retry": {"budget": 20}}}),
    ],
)
def test_the_schema_for_editors_refuses_what_the_check_refuses(place: str, value: object) -> None:
    data: dict[str, object] = {"services": {"web": {"blue": {"endpoints": ["http://a"]}}}}
    schema = json_schema()
    jsonschema.validate(data, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data | {place: value}, schema)


def test_the_schema_describes_every_key_and_every_form() -> None:
    text = json.dumps(json_schema())
    for key in all_keys():
        assert json.dumps(key.description) in text, key.pattern
    for pattern in (scalars.DURATION_PATTERN, scalars.SIZE_PATTERN, scalars.RATE_PATTERN):
        assert json.dumps(pattern) in text


def test_the_defaults_are_what_the_schema_says_they_are() -> None:
    """A file that writes every section's defaults out is the same as one that writes none."""
    bare = "services: {web: {blue: {endpoints: ['http://a']}}}\n"
    written = bare + "limits: {}\nadmin: {}\ntraffic: {cohort: {}, assets: {}}\nreleases: {}\n"
    configs = [
        parse_text(text.encode(), "f", {}, read_secrets=False).config for text in (bare, written)
    ]
    assert configs[0] == configs[1]
