"""Packages of npm, got once and kept in pytest's cache; tests skip where npm gives nothing."""

from __future__ import annotations

import shutil
import subprocess
import tarfile

import pytest

NPM_LIMIT_S = 90.0  # seconds to get a package; the largest has 33 MB


def packed(config: pytest.Config, package: str, *members: str) -> dict[str, bytes]:
    """These files of a package, `name@version`."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm on this machine (apt-get install npm)")
    assert config.cache is not None
    name, _, version = package.rpartition("@")
    folder = config.cache.mkdir("npm")
    path = folder / f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
    if not path.is_file():
        command = [npm, "pack", "--silent", "--pack-destination", str(folder), package]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=NPM_LIMIT_S)
        except (subprocess.SubprocessError, OSError) as error:
            pytest.skip(f"npm gives no {package}: {type(error).__name__}")
    found: dict[str, bytes] = {}
    with tarfile.open(path) as archive:
        for member in members:
            file = archive.extractfile(f"package/{member}")
            assert file is not None
            found[member] = file.read()
    return found
