"""Which daemon a command reaches, and where its token may go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from p2pmodels.cli.connection import Connection, find_daemon
from p2pmodels.errors import UsageError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without configuration, but for the environment of each test."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("P2PMODELS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("P2PMODELS_WEB__LISTEN", "127.0.0.1:4711")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "control-token").write_text("the-token\n")
    return tmp_path


def note(folder: Path, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "daemon.json").write_text(text)


def test_note_of_the_daemon_wins_over_the_configured_address(home: Path) -> None:
    note(home / "data", json.dumps({"url": "http://127.0.0.1:99"}))
    assert find_daemon(None, None).url == "http://127.0.0.1:99"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"url": 7}', '{"url": "file:///etc"}'])
def test_broken_note_counts_as_none(home: Path, text: str) -> None:
    note(home / "data", text)
    assert find_daemon(None, None).url == "http://127.0.0.1:4711"


@pytest.mark.parametrize(
    ("listen", "url"),
    [("0.0.0.0:5", "http://127.0.0.1:5"), ("[::]:5", "http://[::1]:5"), ("127.0.0.1:0", None)],
)
def test_configured_address_becomes_one_to_dial(
    monkeypatch: pytest.MonkeyPatch, listen: str, url: str | None
) -> None:
    monkeypatch.setenv("P2PMODELS_WEB__LISTEN", listen)
    assert find_daemon(None, None).url == url


def test_folder_named_by_flag_never_reaches_another_folders_daemon(home: Path) -> None:
    assert find_daemon(home / "other", None).url is None


def test_url_flag_wins_over_all(home: Path) -> None:
    note(home / "data", json.dumps({"url": "http://127.0.0.1:99"}))
    found = find_daemon(None, "http://127.0.0.1:12/")
    assert (found.url, found.is_explicit) == ("http://127.0.0.1:12", True)


def test_url_with_a_password_is_refused_without_repeating_it() -> None:
    with pytest.raises(UsageError) as caught:
        find_daemon(None, "http://me:secret-word@127.0.0.1:1")
    assert "secret-word" not in caught.value.message


@pytest.mark.parametrize(
    ("url", "token"),
    [
        ("http://127.0.0.1:1", "the-token"),
        ("http://[::1]:1", "the-token"),
        ("http://localhost:1", "the-token"),
        ("http://10.0.0.5:7878", None),
        ("https://models.example.org", None),
        ("http://127.0.0.1.example.org", None),
    ],
)
def test_control_token_stays_on_this_machine(url: str, token: str | None) -> None:
    assert find_daemon(None, url).read_token() == token


def test_control_token_goes_to_the_address_the_daemon_noted(home: Path) -> None:
    note(home / "data", json.dumps({"url": "http://10.0.0.5:7878"}))
    assert find_daemon(None, None).read_token() == "the-token"
    assert find_daemon(None, "http://10.0.0.5:7878").read_token() == "the-token"


@pytest.mark.parametrize("content", [b"", b"two\nlines", b"\xff\xfe"])
def test_broken_token_file_counts_as_none(home: Path, content: bytes) -> None:
    (home / "data" / "control-token").write_bytes(content)
    found: Connection = find_daemon(None, None)
    assert found.read_token() is None
