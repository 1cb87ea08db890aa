"""Before anything is measured: does a proxy do the work that it is to be measured for?

A proxy that splits nothing, or leaves a security field out, would look fast. Each one is asked with
a few hundred clients' cookies, twice.
"""

from __future__ import annotations

import http.client

from loadtests.processes import ToolError
from loadtests.steady import browser_requests
from loadtests.targets import BODY, SECURITY

CLIENTS = 300

#: 20 % of 300 clients, give or take four standard deviations (28).
FEWEST, MOST = 32, 88


def sides(port: int) -> list[str]:
    """Return the color that each client's request was answered by. Raises ToolError."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    found = []
    try:
        for request in browser_requests(CLIENTS):
            head = request.decode("latin-1").split("\r\n")
            fields = dict(line.split(": ", 1) for line in head[1:] if line)
            connection.request("GET", head[0].split(" ")[1], headers=fields)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200 or len(body) != BODY:
                raise ToolError(f"answers {answer.status} with {len(body)} octets")
            if missing := [name for name in SECURITY if answer.getheader(name) is None]:
                raise ToolError(f"answers without {', '.join(missing)}")
            found.append(answer.getheader("X-Served-By", ""))
    except (OSError, http.client.HTTPException) as error:
        raise ToolError(f"does not answer: {error!r}") from error
    finally:
        connection.close()
    return found


def verify(port: int) -> None:
    """Check one proxy's work. Raises ToolError with what is wrong."""
    first, second = sides(port), sides(port)
    green = first.count("green")
    if not FEWEST <= green <= MOST:
        raise ToolError(f"sends {green} of {CLIENTS} clients to green, not about 20 %")
    if first != second:
        raise ToolError("sends a client to another color the second time")
