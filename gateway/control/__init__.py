"""The control process: never on a request's way."""
