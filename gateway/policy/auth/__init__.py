"""Who a request is from: addresses, API keys, signed tokens. Decisions without I/O.

Nothing in here logs or repeats a credential, in whole or in part: not in an error, not in a repr.
"""
