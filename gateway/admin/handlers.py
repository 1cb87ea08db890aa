"""What every call's handler needs: who asks, what control refuses, the answer's ETag."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from gateway.admin import models
from gateway.admin.problems import ProblemError, answer
from gateway.control.allocation import AllocationError
from gateway.control.desk import Refused
from gateway.control.operations import StillInFlightError, UnhealthyError
from gateway.control.settings import SettingsError
from gateway.control.store import StoreError
from gateway.control.switchboard import Caller, StaleRevisionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import web

    from gateway.admin.inbound import Inbound
    from gateway.admin.pictures import Pictures
    from gateway.control.desk import RefusedPart
    from gateway.control.hub import Applied
    from gateway.control.switchboard import Switchboard, Written


class Handlers:
    """The common part of the classes whose methods are calls."""

    def __init__(self, switchboard: Switchboard, shown: Pictures) -> None:
        self._switch = switchboard
        self._shown = shown

    def _fresh(self) -> bytes:
        return self._switch.parts.fresh()

    def _answer(self, model: models.Answer) -> web.Response:
        return answer(model, headers={"ETag": f'"{self._switch.state.revision}"'})

    @staticmethod
    def _caller(inbound: Inbound, reason: str) -> Caller:
        assert inbound.identity is not None
        return Caller(
            actor=inbound.identity.name,
            address=inbound.address,
            reason=reason,
            revisions=inbound.revisions,
        )

    def _moved_in(self, written: Written) -> float | None:
        """Return how long a write took, None where nothing moved. Raises ProblemError (504)."""
        milliseconds = self._applied(written.applied)
        return milliseconds if written.changed else None

    def _applied(self, applied: Applied | None) -> float | None:
        """Return how long it took, None where nothing moved. Raises ProblemError (504)."""
        if applied is None:
            return None
        if applied.lagging:
            raise ProblemError(
                504,
                "workers-lagging",
                "it is in force, but not every worker acknowledged in time; they are asked on",
                lagging=[*applied.lagging, *applied.errors],
                revision=self._switch.state.revision,
            )
        return applied.milliseconds

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Turn what control refuses into problems."""
        try:
            yield
        except Refused as error:
            raise ProblemError(
                error.status,
                error.kind,
                error.detail,
                field=error.field,
                hint=error.hint,
                services=[refused_part(part) for part in error.parts] or None,
                release=error.release,
            ) from error
        except StaleRevisionError as error:
            raise ProblemError(
                412,
                "stale-revision",
                str(error),
                field="If-Match",
                revision=error.revision,
                headers={"ETag": f'"{error.revision}"'},
            ) from error
        except StoreError as error:
            detail = f"the state store fails, nothing was changed: {error}"
            raise ProblemError(503, "store-unavailable", detail) from error
        except AllocationError as error:
            raise ProblemError(409, "board-full", str(error)) from error
        except UnhealthyError as error:
            seen = self._shown.evidence(error.monitors)
            raise ProblemError(409, "pool-unhealthy", str(error), endpoints=seen) from error
        except StillInFlightError as error:
            left = error.in_flight
            raise ProblemError(409, "still-in-flight", str(error), in_flight=left) from error
        except SettingsError as error:
            faults = [models.ProblemItem(field=where, detail=what) for where, what in error.faults]
            detail = f"{len(faults)} errors; the old configuration stays"
            raise ProblemError(422, "invalid-configuration", detail, errors=faults) from error


def refused_part(part: RefusedPart) -> models.RefusedService:
    """Return one service that stays as it is, and why."""
    return models.RefusedService(service=part.service, type=part.type, detail=part.detail)
