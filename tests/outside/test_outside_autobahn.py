"""The Autobahn WebSocket suite through the gateway gives case by case what it gives directly.

``make autobahn`` installs the suite (it runs on Python 2.7 only). Its fuzzing client plays the same
cases against the same echo server twice in one run: directly, and through the gateway. Limits and
compression sections (9, 12, 13) repeat what the others show at great length and are left out
here; ``AUTOBAHN_CASES='*'`` plays all.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.gateway import GatewayProcess
from tests.support.processes import ROOT, need

pytestmark = [pytest.mark.outside, pytest.mark.slow, pytest.mark.timeout(900)]

CASES = ("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*", "9.1.1", "9.2.1", "12.1.1")

#: The suite's own verdicts that depend on timing (does a close arrive before an answer?).
UNSTABLE = {"NON-STRICT", "INFORMATIONAL", "OK"}


def wstest() -> str:
    installed = ROOT / ".make" / "autobahn" / "bin" / "wstest"
    if installed.is_file():
        return str(installed)
    try:
        return need("wstest")
    except pytest.skip.Exception:
        pytest.skip("the Autobahn suite is not installed (make autobahn; it needs Python 2.7)")


def test_every_case_ends_as_it_does_without_the_gateway(
    echo: GatewayProcess, tmp_path: Path
) -> None:
    program = wstest()
    found = re.search(
        r"blue: \{endpoints: \[\"http://127\.0\.0\.1:(\d+)\"\]", echo.path.read_text()
    )
    assert found is not None
    spec = {
        "outdir": str(tmp_path / "reports"),
        "servers": [
            {"agent": "direct", "url": f"ws://127.0.0.1:{found[1]}"},
            {"agent": "gateway", "url": f"ws://127.0.0.1:{echo.port}"},
        ],
        "cases": os.environ.get("AUTOBAHN_CASES", "").split() or list(CASES),
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    path = tmp_path / "fuzzingclient.json"
    path.write_text(json.dumps(spec))
    done = subprocess.run(
        [program, "-m", "fuzzingclient", "-s", str(path)],
        capture_output=True,
        timeout=850,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    report = json.loads((tmp_path / "reports" / "index.json").read_text())
    direct, through = report["direct"], report["gateway"]
    assert len(direct) > 200 or "AUTOBAHN_CASES" in os.environ
    assert set(direct) == set(through)

    different = {}
    for case, wanted in direct.items():
        got = through[case]
        for verdict in ("behavior", "behaviorClose"):
            pair = wanted[verdict], got[verdict]
            if pair[0] != pair[1] and not set(pair) <= UNSTABLE:
                different[case] = (verdict, *pair)
    assert not different
