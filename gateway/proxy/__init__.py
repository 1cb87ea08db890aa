"""The data plane: downstream and upstream connections, exchanges, pools, tunnels."""
