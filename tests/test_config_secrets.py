"""Secrets of the configuration: each comes from a file of its own, and no error repeats it."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pmodels.config import LanOptions, OriginOptions, load_config
from p2pmodels.errors import ConfigError


def test_token_comes_from_the_file_of_its_origin(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("hf_secret\n")
    origin = OriginOptions(url="https://m.example", token_file=file)
    token = origin.read_token({})
    assert token is not None
    assert token.reveal() == "hf_secret"
    assert "hf_secret" not in str(load_config(environ={}).explain())


def test_credential_of_the_service_is_the_hubs_alone(tmp_path: Path) -> None:
    (tmp_path / "hf-token").write_text("hf_secret")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), "HF_TOKEN": "never-read"}
    hub = OriginOptions().read_token(environ)
    assert hub is not None
    assert hub.reveal() == "hf_secret"
    assert OriginOptions(url="https://m.example").read_token(environ) is None
    assert OriginOptions().read_token({"HF_TOKEN": "never-read"}) is None


@pytest.mark.parametrize("content", [None, b"", b"two words", b"\xff", b"x" * 9000])
def test_bad_token_file_is_refused_without_its_content(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        OriginOptions(token_file=file).read_token({})
    assert "two words" not in caught.value.message
    assert str(file) in caught.value.message


def test_group_secret_comes_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "group"
    file.write_text("  0123456789abcdef\n")
    own = tmp_path / "own.toml"
    own.write_text(f"[lan]\ngroup_secret_file = '{file}'\n")
    config = load_config(own, environ={})
    secret = config.lan.read_group_secret()
    assert secret is not None
    assert secret.reveal() == "0123456789abcdef"
    assert "0123456789abcdef" not in str(config.explain())
    assert load_config(environ={}).lan.read_group_secret() is None


@pytest.mark.parametrize(
    "content",
    [None, b"", b"0123456789abcde\n", b"two words, but sixteen", b"\xff" * 20, b"x" * 9000],
)
def test_bad_group_secret_file_is_refused_without_its_content(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "group"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        LanOptions(group_secret_file=file).read_group_secret()
    assert caught.value.fields["key"] == "lan.group_secret_file"
    assert str(file) in caught.value.message
    assert "01234" not in str(caught.value.as_json())
    assert "two words" not in str(caught.value.as_json())
