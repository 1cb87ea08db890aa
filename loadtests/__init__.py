"""Load tests: the gateway beside other proxies that do the same work, on loopback only."""
