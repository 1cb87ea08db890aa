"""Every socket that clients connect to: one per listener and worker slot, and the admin's.

The supervisor holds all of them for as long as it runs, so a worker that dies loses none of the
connections that wait to be accepted: its replacement accepts from the same queue.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.supervisor import addresses

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.supervisor.addresses import Address
    from gateway.supervisor.plan import Plan

ADDRESSES_FILE: Final = "addresses.json"


#: In place of a slot: one socket that the workers of all slots accept on.
ALL_SLOTS: Final = -1


class Taken:
    """Sockets handed over by whoever held them, by canonical address; closed unless used."""

    def __init__(self) -> None:
        self._workers: dict[tuple[str, int], socket.socket] = {}
        self._admin: dict[str, socket.socket] = {}
        #: Addresses whose sockets somebody else made: they are not ours to remove.
        self.given: set[str] = set()

    def add_worker(self, slot: int, sockets: Iterable[tuple[str, int]]) -> None:
        """Keep what one worker (``ALL_SLOTS``: all) had; takes over the descriptors."""
        for text, fd in sockets:
            listener = addresses.adopt(fd)
            if listener is None:
                continue
            if (text, slot) in self._workers:
                listener.close()  # two workers of one slot: descriptors of the same socket
            else:
                self._workers[text, slot] = listener

    def add_admin(self, sockets: Iterable[tuple[str, int]]) -> None:
        """Keep what control handed over; takes over the descriptors."""
        for text, fd in sockets:
            listener = addresses.adopt(fd)
            if listener is not None and text in self._admin:
                listener.close()
            elif listener is not None:
                self._admin[text] = listener

    def give(self, text: str, listener: socket.socket, *, admin: bool = False) -> None:
        """Keep a socket that a service manager made and keeps."""
        self.given.add(text)
        if admin:
            self._admin[text] = listener
        else:
            self._workers[text, ALL_SLOTS] = listener

    def shared(self, address: Address) -> socket.socket | None:
        """Take out a socket that all slots are to accept on: nobody can bind another beside it.

        That is one from somebody else, a Unix socket, or one without ``SO_REUSEPORT``.
        """
        for key in sorted(self._workers):
            if key[0] != address.text:
                continue
            alone = key[1] == ALL_SLOTS or not addresses.beside_others(self._workers[key])
            if alone or address.shared:
                return self._workers.pop(key)
        return None

    def worker(self, address: Address, slot: int) -> socket.socket | None:
        """Take out one slot's own socket for an address."""
        return self._workers.pop((address.text, slot), None)

    def admin(self, address: Address) -> socket.socket | None:
        """Take out the admin's socket."""
        return self._admin.pop(address.text, None)

    @property
    def serving(self) -> bool:
        """Whether workers accept on any of these."""
        return any(slot != ALL_SLOTS for _, slot in self._workers)

    def port_is_ours(self, address: Address) -> bool:
        """Tell whether what was taken listens on the address's port, on any host."""
        if address.path:
            return any(text == address.text for text, _ in self._workers)
        ports = {text.rpartition(":")[2] for text, _ in self._workers}
        return str(address.port) in ports

    def carried(self) -> list[tuple[str, int, int]]:
        """Return what is left as (address, slot, descriptor)."""
        return [(text, slot, each.fileno()) for (text, slot), each in self._workers.items()]

    def close(self) -> None:
        """Close what was not taken out."""
        for listener in (*self._workers.values(), *self._admin.values()):
            listener.close()
        self._workers.clear()
        self._admin.clear()


class Sockets:
    """The plan's sockets, bound or taken over."""

    def __init__(self, plan: Plan, taken: Taken) -> None:
        """Bind all that is missing. Raises AddressError; then nothing stays bound."""
        self._listeners = [addresses.parse(text) for text in plan.listen]
        self._admin_address = addresses.parse(plan.admin)
        #: By listener's index and slot; a shared socket stands under each slot.
        self._bound: dict[tuple[int, int], socket.socket] = {}
        self._shared: set[int] = set()
        self._given = taken.given
        #: Beside workers that serve, a further socket listens only once its own worker does:
        #: the kernel would hand it a share of the connections before anybody accepts them.
        self._later = taken.serving
        self._admin: socket.socket | None = None
        self.resolved: list[str] = []
        try:
            for index, address in enumerate(self._listeners):
                self._fill(index, address, plan.workers, taken)
            self._admin = taken.admin(self._admin_address)
            if self._admin is None:
                addresses.refuse_if_taken(self._admin_address)
                self._admin = addresses.listen(self._admin_address, beside_others=False, admin=True)
        except BaseException:
            self.close()
            raise
        self.resolved_admin = addresses.bound_text(self._admin, self._admin_address)

    @property
    def texts(self) -> tuple[str, ...]:
        """The listeners' canonical addresses, in their order."""
        return tuple(address.text for address in self._listeners)

    @property
    def admin_text(self) -> str:
        """The admin's canonical address."""
        return self._admin_address.text

    @property
    def admin(self) -> int:
        """The admin socket's descriptor."""
        assert self._admin is not None
        return self._admin.fileno()

    def of_slot(self, slot: int) -> tuple[tuple[int, int], ...]:
        """Return one slot's sockets as (listener's index, descriptor)."""
        count = len(self._listeners)
        return tuple((index, self._bound[index, slot].fileno()) for index in range(count))

    @property
    def given(self) -> tuple[str, ...]:
        """Addresses whose sockets somebody else made."""
        return tuple(sorted(self._given))

    def carried(self) -> list[tuple[str, int, int]]:
        """Return the listeners' sockets as (address, slot, descriptor)."""
        return [
            (self._listeners[index].text, ALL_SLOTS if index in self._shared else slot, fd)
            for (index, slot), fd in ((key, each.fileno()) for key, each in self._bound.items())
            if slot == 0 or index not in self._shared
        ]

    def publish(self, run_dir: Path) -> None:
        """Write the addresses bound to ``ADDRESSES_FILE``, for who looks for them."""
        text = json.dumps({"listen": self.resolved, "admin": self.resolved_admin})
        beside = run_dir / f".{ADDRESSES_FILE}.{os.getpid()}"
        beside.write_text(text + "\n", encoding="utf-8")
        beside.rename(run_dir / ADDRESSES_FILE)

    def close_public(self) -> None:
        """Stop listening to clients: once the workers have closed theirs, nobody is let in."""
        for listener in self._bound.values():
            listener.close()
        self._bound.clear()

    def close(self) -> None:
        """Close all."""
        self.close_public()
        if self._admin is not None:
            self._admin.close()

    def unlink(self) -> None:
        """Remove the paths of Unix sockets, once nobody listens any more."""
        for address in (*self._listeners, self._admin_address):
            if address.path and address.text not in self._given:
                Path(address.path).unlink(missing_ok=True)

    def _fill(self, index: int, address: Address, slots: int, taken: Taken) -> None:
        """Bind or take one listener's sockets for all slots."""
        if not taken.port_is_ours(address):
            addresses.refuse_if_taken(address)
        shared = taken.shared(address)
        if shared is not None or address.shared:
            self._shared.add(index)
        first = shared
        for slot in range(slots):
            bound = first if index in self._shared else taken.worker(address, slot)
            if bound is None:
                where = _beside(address, first)
                bound = addresses.listen(where, beside_others=True, later=self._later)
            first = first or bound
            self._bound[index, slot] = bound
        assert first is not None
        self.resolved.append(addresses.bound_text(first, address))


def _beside(address: Address, first: socket.socket | None) -> Address:
    """Return the address with the port that a first socket was given where the plan says 0."""
    if first is None or address.path or address.port:
        return address
    port = int(first.getsockname()[1])
    return addresses.Address(text=address.text, family=address.family, host=address.host, port=port)
