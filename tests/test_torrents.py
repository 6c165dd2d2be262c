"""The shipped torrents are re-derived, byte for byte (reliability B18)."""

from __future__ import annotations

import hashlib
import json

import pytest

from p2pmodels.core.digests import Sha256
from p2pmodels.core.names import FilePath
from p2pmodels.demo.minilm import minilm_files
from p2pmodels.shipped import shipped_folder, shipped_torrents
from p2pmodels.sources.swarm.torrents import make_torrent, read_torrent

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_SIZE = 90_868_376


def index() -> list[dict[str, object]]:
    folder = shipped_folder()
    assert folder is not None
    entries = json.loads((folder / "index.json").read_text())["torrents"]
    assert isinstance(entries, list)
    return entries


def test_index_and_folder_say_the_same() -> None:
    folder = shipped_folder()
    assert folder is not None
    listed = {str(entry["file"]) for entry in index()}
    assert listed == {path.name for path in folder.glob("*.torrent")}
    assert len(shipped_torrents()) == len(listed)


@pytest.mark.parametrize("entry", index(), ids=lambda entry: str(entry["repo"]))
def test_each_torrent_says_what_the_index_says(entry: dict[str, object]) -> None:
    folder = shipped_folder()
    assert folder is not None
    data = (folder / str(entry["file"])).read_bytes()
    torrent = read_torrent(data)
    assert torrent.data == data  # already in our own form: no tracker, no web seed, no date
    assert torrent.name == Sha256(str(entry["sha256"]))
    assert (torrent.infohash, torrent.infohash_v2) == (entry["infohash"], entry["infohash_v2"])
    assert [file.size for file in torrent.files] == [entry["size"]]


def test_the_minilm_torrent_is_made_again_from_the_published_file() -> None:
    path = minilm_files()["model.safetensors"]
    with path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == MINILM_SHA256
    name = Sha256(MINILM_SHA256)
    torrent = make_torrent(name, [(FilePath(name.value), MINILM_SIZE, path)])
    assert torrent.data in shipped_torrents()
    assert index()[0]["size"] == MINILM_SIZE
