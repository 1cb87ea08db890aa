"""The demo platform: four small real services in two colors, each color its own processes.

Everything stays on loopback. Each process has a knob that makes it slow, failing or dead, so that
what the gateway does about it can be seen.
"""
