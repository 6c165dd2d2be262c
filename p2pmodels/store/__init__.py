"""The only writer of files: blobs, partials, the index, room on the disk.

The invariant everything here follows from: losing the last bytes is tolerable, believing that we
have bytes which we lack is never. Imports `core` only.
"""
