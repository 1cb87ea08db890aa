"""A worker's composition root: sockets, channel client, topology, drain."""
