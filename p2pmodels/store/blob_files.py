"""Looks at the file of a blob: is it what its name says?"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from p2pmodels.core.digests import GitId, Sha256
from p2pmodels.errors import StoreFailed
from p2pmodels.store.disk import Disk


def hash_file(disk: Disk, path: Path) -> tuple[int, Sha256, GitId]:
    """The size and both digests of a file. Blocks; raises StoreFailed."""
    fd = disk.open(path, os.O_RDONLY)
    try:
        size = disk.size(fd)
        sha256, git_id = Sha256("0" * 64).hasher(size), GitId("0" * 40).hasher(size)
        position = 0
        while data := disk.read(fd, 1 << 20, position):
            sha256.update(data)
            git_id.update(data)
            position += len(data)
    finally:
        disk.close(fd)
    return size, Sha256(sha256.hexdigest()), GitId(git_id.hexdigest())


def has_size(path: Path, size: int) -> bool:
    """Whether a regular file of exactly this size is there. Blocks."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoreFailed(f"{path.name}: {error.strerror}") from error
    return stat.S_ISREG(status.st_mode) and status.st_size == size
