"""docs/tls.md's way to the first certificate: what it says to type works."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import yaml

from gateway.config.certificates import read_pair
from gateway.config.load import parse_text
from tests.support.certificates import Authority
from tests.support.firstcertificate import deploy_hook, placed, shown
from tests.support.processes import need

SERVICES = "services: {web: {blue: {endpoints: ['http://127.0.0.1:1']}}}\n"


def run(script: str, folder: Path, **env: str) -> None:
    done = subprocess.run(
        ["sh", "-ec", script],
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_placeholder_is_taken_by_the_pages_configuration(tmp_path: Path) -> None:
    need("openssl")
    text = placed(shown("listen:", "yaml"), tmp_path)
    data = yaml.safe_load(text)
    pairs = data["listen"][1]["tls"]["certificates"]
    # The page's second pair is another site's.
    text = "\n".join(line for line in text.splitlines() if "/api/" not in line) + "\n"
    run(placed(shown("install -d"), tmp_path), tmp_path)
    loaded = parse_text((SERVICES + text).encode(), "f", {})
    assert [each.path for each in loaded.warnings] == []
    (place,) = loaded.config.secrets.certificates.values()
    assert place.names == ("example.org",)
    assert place.certificate_file == pairs[0]["certificate"]
    assert stat.S_IMODE(Path(place.key_file).stat().st_mode) == 0o600
    assert Path(loaded.config.acme.folder or "").is_dir()


def test_the_deploy_hook_puts_a_pair_of_either_client_into_place(tmp_path: Path) -> None:
    need("openssl")
    run(placed(shown("install -d"), tmp_path), tmp_path)
    hook, site = deploy_hook(tmp_path), tmp_path / "tls" / "site"
    made = tmp_path / "made"
    made.mkdir()
    for names in ("lego", "certbot"):
        Authority().make(f"{names}.example").write(made, "fullchain")
        (made / "fullchain.key").rename(made / "privkey.pem")
        if names == "lego":
            certificate, key = str(made / "fullchain.pem"), str(made / "privkey.pem")
            run(str(hook), tmp_path, LEGO_CERT_PATH=certificate, LEGO_CERT_KEY_PATH=key)
        else:
            run(str(hook), tmp_path, RENEWED_LINEAGE=str(made))
        pair = read_pair("p", str(site / "fullchain.pem"), str(site / "privkey.pem"))
        assert pair.names == (f"{names}.example",)
        assert stat.S_IMODE((site / "privkey.pem").stat().st_mode) == 0o600
        assert {each.name for each in site.iterdir()} == {"fullchain.pem", "privkey.pem"}
