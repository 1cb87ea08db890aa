"""Releases: moving services from stable to candidate step by step, judged by their requests."""
