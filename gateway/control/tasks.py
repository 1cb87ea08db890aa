"""The one caller of ``asyncio.create_task`` in control: named, referenced, loud when they fail."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

log = logging.getLogger("gateway.control")

T = TypeVar("T")


class Tasks:
    """A bag of running tasks. A task leaves it when it ends; ``close`` cancels the rest."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, coroutine: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Run ``coroutine`` in the background under ``name``; a failure of it is logged."""
        task = asyncio.create_task(coroutine, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            log.error("task %s failed", task.get_name(), exc_info=failure)

    async def close(self) -> None:
        """Cancel what still runs and wait for its end. Failures were logged as they came."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def __repr__(self) -> str:
        """Name the tasks that run."""
        return f"Tasks({sorted(task.get_name() for task in self._running)})"
