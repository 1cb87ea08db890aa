"""Replay what is kept, in the form that the hot modules have in this interpreter."""

from __future__ import annotations

import sys

from gateway.wire import head
from tests.fuzz.corpus import kept
from tests.fuzz.targets import TARGETS


def main() -> int:
    """Feed each target its inputs; a broken promise is a traceback.

    An argument says which form it has to be; 2 where it is the other.
    """
    form = "compiled" if head.__file__.endswith((".so", ".pyd")) else "plain"
    if sys.argv[1:] not in ([], [form]):
        print(f"the hot modules are {form} here", file=sys.stderr)
        return 2
    count = 0
    for name, target in TARGETS.items():
        for data in kept(name):
            target(data)
            count += 1
    print(form, count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
