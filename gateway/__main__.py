"""``python -m gateway``: the command line."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  whoever starts it by hand has no pip to say so
    found = ".".join(map(str, sys.version_info[:2]))
    sys.stderr.write("gateway: Python 3.11 or newer is needed, this is %s\n" % found)  # noqa: UP031
    sys.exit(4)

from gateway.cli import main

main()
