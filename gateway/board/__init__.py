"""The shared memory that all processes map: counters, in-flight counts, endpoint health."""
