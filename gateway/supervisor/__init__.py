"""Owns the sockets, the board and the children; standard library only (docs/adr/0005).

What must live here and nowhere else: binding public addresses, starting, watching, replacing and
ending the control process and the workers. No HTTP, no policy, no event loop library: the less
this process does, the less can bring it down, and it is the one that nobody restarts.
"""
