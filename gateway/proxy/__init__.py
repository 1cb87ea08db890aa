"""The data plane: downstream and upstream connections, the exchange between them, pools, tunnels."""
