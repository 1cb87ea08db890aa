"""Dockerfile and compose.yaml, read as far as they can be without an engine.

No linter for either is to be had from the package index and no engine runs here, so their structure
is checked: the stages, the user, how it is started and stopped, and that every file that is copied
or mounted exists and is not ignored.
"""

from __future__ import annotations

import json
import re
from fnmatch import fnmatch
from typing import Any

import pytest
import yaml

from tests.support.processes import ROOT


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions, continued lines joined, comments left out."""
    lines = [
        line
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if not line.lstrip().startswith("#")
    ]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    found = []
    for line in joined.splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            found.append((word, " ".join(rest.split())))
    return found


def of(word: str) -> list[str]:
    return [rest for each, rest in instructions() if each == word]


def compose() -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / "compose.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def last_stage() -> list[tuple[str, str]]:
    all_ = instructions()
    at = max(i for i, (word, _) in enumerate(all_) if word == "FROM")
    return all_[at:]


def test_it_is_built_in_one_stage_and_run_in_another() -> None:
    stages = of("FROM")
    assert len(stages) == 2
    assert stages[0].endswith(" AS build")
    assert not any("gcc" in rest for _, rest in last_stage())
    # A floating tag would change under the lock file.
    assert all(re.search(r":\d+\.\d+", stage) for stage in stages)


def test_it_runs_as_nobody_in_particular_with_its_state_on_a_volume() -> None:
    last = last_stage()
    assert ("USER", "gateway") in last
    assert last.index(("USER", "gateway")) < [word for word, _ in last].index("ENTRYPOINT")
    assert ("VOLUME", "/var/lib/gateway") in last


def test_signals_reach_it_and_its_health_is_asked() -> None:
    assert of("STOPSIGNAL") == ["SIGTERM"]
    (entry,) = of("ENTRYPOINT")
    # The exec form: in the shell form a shell is process 1 and swallows SIGTERM.
    assert json.loads(entry) == ["gateway", "run", "--config", "/etc/gateway/gateway.yaml"]
    (health,) = of("HEALTHCHECK")
    command = json.loads(health[health.index("[") :])
    assert "/healthz" in command[-1]
    compile(command[-1], "HEALTHCHECK", "exec")


def test_package_lists_are_removed_and_pip_keeps_no_cache() -> None:
    for run in of("RUN"):
        if "apt-get install" in run:
            assert "--no-install-recommends" in run
            assert "rm -rf /var/lib/apt/lists/*" in run
        if "pip install" in run:
            assert run.count("pip install") == run.count("--no-cache-dir")
            assert "-c requirements/lock.txt" in run


def ignored(path: str) -> bool:
    """Tell whether .dockerignore leaves a path out (the last pattern that matches decides)."""
    left_out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        negated, pattern = pattern.startswith("!"), pattern.lstrip("!")
        parents = [path, *(str(p) for p in (ROOT / path).relative_to(ROOT).parents)]
        if any(fnmatch(each, pattern.removeprefix("**/")) for each in parents if each != "."):
            left_out = not negated
    return left_out


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    for rest in of("COPY"):
        if rest.startswith("--from"):
            continue
        for source in rest.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert not ignored(source), source
    assert ignored(".git")
    assert ignored("tests")
    assert ignored("gateway/wire/head.cpython-311-x86_64-linux-gnu.so")


def test_compose_has_the_gateway_and_two_colors() -> None:
    services = compose()["services"]
    assert set(services) == {"gateway", "web-blue", "web-green"}
    gateway = services["gateway"]
    assert any(volume == "state:/var/lib/gateway" for volume in gateway["volumes"])
    assert "state" in compose()["volumes"]
    assert "GATEWAY_TOKEN" in gateway["environment"]


def test_compose_mounts_what_exists_and_the_gateway_asks_whom_compose_starts() -> None:
    services = compose()["services"]
    for service in services.values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), source
    config = yaml.safe_load((ROOT / "config" / "container.yaml").read_text())
    for pool in config["services"]["web"].values():
        for url in pool["endpoints"]:
            host, port = url.removeprefix("http://").split(":")
            assert port in services[host]["command"]


def test_compose_gives_the_gateway_time_to_drain() -> None:
    from gateway.config.snapshot import Service

    grace = compose()["services"]["gateway"]["stop_grace_period"]
    assert float(grace.removesuffix("s")) > Service(name="web", row=1).drain_timeout


@pytest.mark.parametrize("published", ["9090"])
def test_the_admin_address_is_not_published(published: str) -> None:
    assert not any(published in port for port in compose()["services"]["gateway"]["ports"])
