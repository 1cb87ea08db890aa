"""Configuration: schema, loading with positions, and the frozen snapshot workers serve from."""
