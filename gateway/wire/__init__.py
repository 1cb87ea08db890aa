"""HTTP's rules without I/O: heads as bytes and offsets, framing, hop-by-hop fields, targets.

What must live here and nowhere else: every decision about what the bytes of a message mean.
Nothing here knows a socket, a clock, a service or a setting.
"""
