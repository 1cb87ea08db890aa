"""Configuration: schema, loading with positions, and the frozen snapshot that workers serve from."""
