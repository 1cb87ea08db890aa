"""The admin API on aiohttp."""
