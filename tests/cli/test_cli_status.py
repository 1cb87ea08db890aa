"""What ``gateway status`` says of the last upgrade."""

from __future__ import annotations

import pytest

from gateway.admin import models
from gateway.cli.status import _upgrade


def shown(capsys: pytest.CaptureFixture[str], **upgrade: object) -> str:
    found = models.UpgradeStatus.model_validate({"at": 0.0, "by": "uid 7 (me)", **upgrade})
    _upgrade(models.StatusAnswer.model_construct(upgrade=found))
    return capsys.readouterr().out


def test_the_last_upgrade(capsys: pytest.CaptureFixture[str]) -> None:
    _upgrade(models.StatusAnswer.model_construct(upgrade=None))
    assert capsys.readouterr().out == ""
    assert shown(capsys, step="done", before="1", after="2") == (
        "\nlast upgrade: done 1970-01-01 00:00:00Z, from 1 to 2, by uid 7 (me)\n"
    )
    assert shown(capsys, step="rolled_back", before="1", after="1", detail="not ready") == (
        "\nlast upgrade: rolled back 1970-01-01 00:00:00Z, from 1 to 1, by uid 7 (me): not ready\n"
    )
