"""Choice of source, single flight, reader streams and the sharing policy.

The only place that composes sources: imports `core`, `store` and `sources`, nothing further right.
"""
