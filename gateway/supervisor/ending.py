"""The end of the whole, stage by stage: announced, then workers, then control."""

from __future__ import annotations

import signal
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.supervisor.children import Child
    from gateway.supervisor.plan import Plan

EXIT_DONE: Final = 0
EXIT_FORCED: Final = 128 + signal.SIGINT


class Stage(Enum):
    """Where the whole is in its life."""

    RUNNING = "running"
    LEAVING = "leaving"
    ENDING_WORKERS = "ending workers"
    ENDING_CONTROL = "ending control"
    DONE = "done"


class Ending:
    """Moves the stage on. ``children`` is the supervisor's own list, all that is still there.

    ``close`` is called when workers are to accept nothing more.
    """

    def __init__(
        self,
        plan: Plan,
        children: Sequence[Child],
        say: Callable[[str], None],
        close: Callable[[], None],
    ) -> None:
        self._plan = plan
        self._children = children
        self._say = say
        self._close = close
        self._leave_at = 0.0
        self.stage = Stage.RUNNING
        self.exit_code = EXIT_DONE

    @property
    def filled(self) -> bool:
        """Whether all seats are kept filled."""
        return self.stage in {Stage.RUNNING, Stage.LEAVING}

    def begin(self, now: float) -> bool:
        """Announce the end, and begin with it after the delay: at once when told again.

        Tells whether it was the first time.
        """
        if self.stage is Stage.LEAVING:
            self._leave_at = now
        if self.stage is not Stage.RUNNING:
            return False
        self.stage = Stage.LEAVING
        self._leave_at = now + self._plan.shutdown_delay
        return True

    def further(self, now: float) -> None:
        """Move on: workers first, so that control sees their last words; then control."""
        if self.stage is Stage.LEAVING and now >= self._leave_at:
            self._end_workers(now)
        roles = {child.role for child in self._children}
        if self.stage is Stage.ENDING_WORKERS and "worker" not in roles:
            self.stage = Stage.ENDING_CONTROL
            for child in self._children:
                child.stop(now + self._plan.grace)
        if self.stage is Stage.ENDING_CONTROL and not roles:
            self.stage = Stage.DONE

    def at_once(self) -> None:
        """Kill all: the person at the terminal will not wait."""
        self.exit_code = EXIT_FORCED
        if self.filled:
            self.stage = Stage.ENDING_WORKERS
            self._close()
        for child in self._children:
            child.kill()

    def _end_workers(self, now: float) -> None:
        self.stage = Stage.ENDING_WORKERS
        self._say(f"ending: workers have {self._plan.drain_timeout:g} s for what is in flight")
        for child in self._children:
            if child.role == "worker":
                child.stop(now + self._plan.drain_timeout + self._plan.grace)
        self._close()
