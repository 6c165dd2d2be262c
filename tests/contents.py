"""Content for tests, with its digests."""

from __future__ import annotations

import hashlib
import random

from p2pmodels.core.digests import GitId, Sha256, git_id
from p2pmodels.store.blobs import Blob
from p2pmodels.store.store import Store


def content(size: int, seed: int = 1) -> tuple[bytes, Sha256]:
    data = random.Random(seed).randbytes(size)  # test data, not a secret
    return data, Sha256(hashlib.sha256(data).hexdigest())


def small(size: int, seed: int = 1) -> tuple[bytes, GitId]:
    data, _ = content(size, seed)
    return data, git_id(data)


async def put(store: Store, size: int, seed: int = 1) -> Blob:
    """Bring a blob into the store the way a source does."""
    data, sha256 = content(size, seed)
    partial = await store.blobs.partial(sha256, size)
    await partial.write(0, data, vouched=True)
    blob = await store.blobs.commit(partial)
    await store.blobs.settle(partial)
    return blob
