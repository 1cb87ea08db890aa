"""The C library."""
