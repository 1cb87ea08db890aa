"""A backend of every kind and clients of every kind, for what nobody is to notice."""
