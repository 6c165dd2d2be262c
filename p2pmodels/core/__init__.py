"""Pure rules: names, digests, manifests, pieces, ranges, sharing policy.

No asyncio, socket, disk or clock in this folder: time and bytes are arguments. Imports nothing of
the package but `errors`.
"""
