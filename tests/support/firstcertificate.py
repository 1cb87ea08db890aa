"""The first certificate as docs/tls.md has it: its files and commands, in a test's own folders."""

from __future__ import annotations

from pathlib import Path

from tests.support.processes import ROOT


def shown(begins: str, language: str = "sh") -> str:
    """Return the block of the page that begins like this."""
    text = (ROOT / "docs" / "tls.md").read_text(encoding="utf-8")
    found = [
        block
        for block in text.split(f"```{language}\n")[1:]
        if block.partition("```")[0].startswith(begins)
    ]
    assert len(found) == 1, begins
    return found[0].partition("```")[0]


def placed(text: str, folder: Path) -> str:
    """Return a block with its folders under another and without a user that tests do not have."""
    text = text.replace("/etc/gateway/tls", f"{folder}/tls")
    text = text.replace("/var/lib/gateway", f"{folder}/lib")
    assert " -o gateway" in text or "install" not in text
    return text.replace(" -o gateway", "")


def deploy_hook(folder: Path) -> Path:
    """Write the page's deploy hook and return its path."""
    path = folder / "tls" / "deploy"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(placed(shown("#!/bin/sh"), folder))
    path.chmod(0o755)
    return path
