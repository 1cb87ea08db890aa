"""A client's side of the admin API: where a gateway is, and one typed client to talk to it."""
