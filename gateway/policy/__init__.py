"""Decisions without I/O: route, cohort, balance, forwarded fields, security fields.

A policy is given what it needs (``now`` and randomness included) and returns a decision; the data
plane performs it.
"""
