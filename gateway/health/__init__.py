"""Probes of endpoints, run by the control process."""
