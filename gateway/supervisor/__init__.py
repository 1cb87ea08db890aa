"""Owns the sockets, the board and the children; standard library only."""
