"""From host and path to a route, at a cost that the number of routes does not move.

Order (as Caddy's and Traefik's, made explicit): the exact host, then wildcards from the longest
suffix to the shortest (``*.a.example`` matches one or more labels before ``.a.example``), then
routes of any host. Within a host the longest path prefix on segment boundaries. Where no path
matches at one host, the less specific hosts are asked.

A final slash of a route's path says nothing, as in the Kubernetes Ingress: ``/api/ivor/`` and
``/api/ivor`` are one route, which matches ``/api/ivor``, ``/api/ivor/`` and ``/api/ivor/x``, and
not ``/api/ivory``.

A host's routes are a tree of segments: a lookup takes one dictionary probe per segment as long as
some route goes on, never looks at a segment that is longer than any route's there, and so is
bounded by the depth and length of the routes, whatever a client sends.
"""

from __future__ import annotations

import cython
from gateway.wire.target import TargetError, lenient_path, prefix_path


@cython.final
@cython.cclass
class _Node:
    """One segment of one host's routes. ``longest`` is the longest key of ``children``, octets."""

    children: dict[bytes, _Node]
    value: object
    longest: cython.Py_ssize_t

    def __init__(self) -> None:
        self.children = {}
        self.value = None
        self.longest = 0


@cython.final
@cython.cclass
class Router:
    """Routes by host and path. Routes are added one by one, so that a load can be sliced."""

    size: cython.Py_ssize_t = cython.declare(cython.Py_ssize_t, visibility="readonly")
    _exact: dict[bytes, _Node]
    _wild: dict[bytes, _Node]
    _longest: cython.Py_ssize_t
    _any: _Node

    def __init__(self) -> None:
        self.size = 0
        self._exact = {}
        #: By suffix, its dot included: ``.a.example`` for ``*.a.example``.
        self._wild = {}
        self._longest = 0
        self._any = _Node()

    def __len__(self) -> int:
        return self.size

    def add(self, host: bytes, path: bytes, value: object) -> bool:
        """Add a route; ``host`` is lower case: exact, ``*.`` and a suffix, or empty for any.

        ``path`` begins with ``/``; its escapes are brought into ``match_path``'s form. Returns
        False and changes nothing where host and path already have a route (the first one stands).
        Raises TargetError for a path that no request could match or that has two readings,
        ValueError for a value of None.
        """
        if value is None:
            raise ValueError("a route's value is not None: that stands for no route")
        matched = prefix_path(path)
        node = self._node_of(host)
        end: cython.Py_ssize_t = len(matched)
        if end > 1 and matched[end - 1] == 47:
            end -= 1
        for segment in matched[1:end].split(b"/") if end > 1 else ():
            child = node.children.get(segment)
            if child is None:
                child = _Node()
                node.children[segment] = child
                node.longest = max(node.longest, len(segment))
            node = child
        if node.value is not None:
            return False
        node.value = value
        self.size += 1
        return True

    @cython.cfunc
    def _node_of(self, host: bytes) -> _Node:
        """Return the root of one host's routes, made where it is not there yet."""
        if not host:
            return self._any
        table = self._exact
        if host.startswith(b"*."):
            host = host[1:]
            table = self._wild
            self._longest = max(self._longest, len(host))
        node = table.get(host)
        if node is None:
            node = _Node()
            table[host] = node
        return node

    @cython.ccall
    def lookup(self, host: bytes, path: bytes) -> object:
        """Return the value of the most specific route, None where there is none.

        ``host`` is what ``valid_host`` made, ``path`` what ``match_path`` made. Raises TargetError
        (``ambiguous-path``) where a careless backend would read the path as one that leads
        elsewhere: ``/admin%2Fx`` must not walk past the policies of ``/admin/``.
        """
        found = self._find(host, path)
        # Nearly every path has one reading.
        if _doubtful(path) and self._find(host, lenient_path(path)) is not found:
            raise TargetError("ambiguous-path", "two readings of the path lead to two routes")
        return found

    @cython.cfunc
    def _find(self, host: bytes, path: bytes) -> object:
        size: cython.Py_ssize_t = len(host)
        at: cython.Py_ssize_t
        node = self._exact.get(host)
        if node is not None:
            value = _walk(node, path)
            if value is not None:
                return value
        if self._longest:
            # From the left: the longest suffix first. At least one octet stays before it.
            at = size - self._longest
            at = max(at, 1)
            while at < size:
                if host[at] == 46:
                    node = self._wild.get(host[at:])
                    if node is not None:
                        value = _walk(node, path)
                        if value is not None:
                            return value
                at += 1
        return _walk(self._any, path)


@cython.cfunc
def _doubtful(path: bytes) -> cython.bint:
    """Tell whether ``lenient_path`` may read ``path`` in another way."""
    d: bytes = path
    size: cython.Py_ssize_t = len(d)
    i: cython.Py_ssize_t = 0
    c: cython.int
    last: cython.int = 0
    while i < size:
        c = d[i]
        if c == 37 or c == 59 or (c == 47 and last == 47):  # noqa: PLR1714 - C, not a set
            return True
        last = c
        i += 1
    return False


@cython.cfunc
def _walk(root: _Node, path: bytes) -> object:
    """Return the value of the longest prefix of ``path`` below ``root``."""
    d: bytes = path
    size: cython.Py_ssize_t = len(d)
    at: cython.Py_ssize_t = 1
    stop: cython.Py_ssize_t
    limit: cython.Py_ssize_t
    node: _Node | None = root
    best = root.value
    # At the end, a final slash has no segment behind it.
    while at < size and node is not None and node.children:
        limit = at + node.longest + 1
        limit = min(limit, size)
        stop = at
        while stop < limit and d[stop] != 47:
            stop += 1
        if stop == limit and stop < size:
            break
        node = node.children.get(d[at:stop])
        if node is not None and node.value is not None:
            best = node.value
        at = stop + 1
    return best
