"""One daemon per data folder.

The lock is the kernel's (`flock`), so a killed daemon leaves none behind. Nothing else in the store
relies on it: on network file systems where it "succeeds" for everybody, names that are written are
still unique digests put in place by rename.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

from p2pmodels.errors import StoreFailed, StoreLocked
from p2pmodels.store.disk import FILE_MODE, FOLDER_MODE


def prepare_folder(folder: Path) -> None:
    """Create the data folder, or refuse one that others could write into. Raises StoreFailed."""
    try:
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise StoreFailed(f"{folder}: {error.strerror}") from error
    if found.st_uid != os.geteuid():
        raise StoreFailed(f"{folder} belongs to another user")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StoreFailed(f"{folder} can be written by others", advice=f"chmod go-w {folder}")


class FolderLock:
    """Held from `acquire` to `release`."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "lock"
        self._fd = -1

    def acquire(self) -> None:
        """Take the lock and write our process id into it. Raises StoreLocked with the holder's."""
        try:
            fd = os.open(
                self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE
            )
        except OSError as error:
            raise StoreFailed(f"{self._path}: {error.strerror}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise StoreLocked(f"{self._path.parent}, process {holder}") from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
