"""What every request reads of its worker, in C's types: the part of ``core.Core`` that is no code.

Compiled where a compiler is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cython

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.proxy.hexes import RandomHex
    from gateway.proxy.record import Recorder
    from gateway.proxy.serving import Serving
    from gateway.proxy.wheel import Wheel


@cython.cclass
class Shared:
    """One worker's clocks, snapshot and counters; see ``core.Core``."""

    clock: Callable[[], float] = cython.declare(object, visibility="public")
    wall: Callable[[], float] = cython.declare(object, visibility="public")
    draw: Callable[[int], int] = cython.declare(object, visibility="public")
    wheel: Wheel = cython.declare(object, visibility="public")
    hexes: RandomHex = cython.declare(object, visibility="public")
    recorder: Recorder = cython.declare(object, visibility="public")
    serving: Serving = cython.declare(object, visibility="public")
    redirects: dict[int, int] = cython.declare(dict, visibility="public")
    draining: cython.bint = cython.declare(cython.bint, visibility="public")
    #: No descriptors for another client: those that are here leave after their answers.
    crowded: cython.bint = cython.declare(cython.bint, visibility="public")
    forced_stable: cython.bint = cython.declare(cython.bint, visibility="public")
