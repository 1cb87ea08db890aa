"""The messages between the planes and their framing."""
