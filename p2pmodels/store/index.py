"""The SQLite index: what we know beside the files themselves.

1. Files are the truth: the index may be deleted, `repair` builds it again from them.
2. One thread uses the connection; every method here blocks and runs in that thread's `Lane`.
3. Rows are written after the file they speak of is safely in its place, never before.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from p2pmodels.core.digests import GitId, Sha256
from p2pmodels.core.manifest import Manifest
from p2pmodels.core.names import Commit, RepoId, Revision
from p2pmodels.core.torrent import TorrentName
from p2pmodels.errors import DiskFull, StoreDamaged, mapped

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS blobs (
    sha256 TEXT PRIMARY KEY, size INTEGER NOT NULL, git_id TEXT,
    added_at REAL NOT NULL, used_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS manifests (
    repo TEXT, commit_id TEXT, body TEXT NOT NULL, PRIMARY KEY (repo, commit_id));
CREATE TABLE IF NOT EXISTS refs (
    repo TEXT, revision TEXT, commit_id TEXT NOT NULL, checked_at REAL NOT NULL,
    PRIMARY KEY (repo, revision));
CREATE TABLE IF NOT EXISTS pins (repo TEXT, commit_id TEXT, PRIMARY KEY (repo, commit_id));
CREATE TABLE IF NOT EXISTS proofs (
    repo TEXT, commit_id TEXT, proved_at REAL NOT NULL, PRIMARY KEY (repo, commit_id));
CREATE TABLE IF NOT EXISTS torrents (name TEXT PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS received (
    sha256 TEXT, source TEXT, bytes INTEGER NOT NULL, PRIMARY KEY (sha256, source));
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class BlobRow:
    """A blob as the index knows it; times are wall-clock seconds."""

    sha256: Sha256
    size: int
    git_id: GitId | None
    used_at: float


@dataclass(frozen=True, slots=True)
class RefRow:
    """What commit a revision stood for when the origin was last asked."""

    repo: RepoId
    revision: Revision
    commit: Commit
    checked_at: float


class Index:
    """One open database file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open or create the database. Raises StoreDamaged for a foreign or newer one."""
        with mapped({sqlite3.Error: StoreDamaged}, str(self._path)):
            db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA_VERSION:
                db.close()
                raise StoreDamaged(
                    f"{self._path} was written by a newer version",
                    advice="Use that version, or give this one another --data-dir.",
                )
            db.executescript(_SCHEMA)
            db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        self._path.chmod(0o600)
        self._db = db

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _run(self, sql: str, *values: object) -> list[tuple[object, ...]]:
        if self._db is None:
            return []
        with mapped({sqlite3.Error: StoreDamaged}, "index"):
            try:
                return self._db.execute(sql, values).fetchall()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                    raise DiskFull("the index cannot be written") from error
                raise

    # blobs

    def blobs(self) -> list[BlobRow]:
        rows = self._run("SELECT sha256, size, git_id, used_at FROM blobs")
        return [
            BlobRow(Sha256(str(sha)), int(str(size)), GitId(str(git)) if git else None, _f(used))
            for sha, size, git, used in rows
        ]

    def put_blob(self, row: BlobRow) -> None:
        self._run(
            "INSERT INTO blobs VALUES (?,?,?,?,?) ON CONFLICT (sha256) DO UPDATE SET"
            " size=excluded.size, git_id=coalesce(excluded.git_id, git_id),"
            " used_at=excluded.used_at",
            row.sha256.value, row.size, row.git_id.value if row.git_id else None,
            row.used_at, row.used_at,
        )  # fmt: skip

    def drop_blob(self, sha256: Sha256) -> None:
        self._run("DELETE FROM blobs WHERE sha256=?", sha256.value)

    def touch_blobs(self, used: Mapping[Sha256, float]) -> None:
        for sha256, at in used.items():
            self._run("UPDATE blobs SET used_at=? WHERE sha256=?", at, sha256.value)

    # snapshots

    def manifests(self) -> list[Manifest]:
        return [
            Manifest.from_json(json.loads(str(body)))
            for (body,) in self._run("SELECT body FROM manifests")
        ]

    def put_manifest(self, manifest: Manifest) -> None:
        self._run(
            "INSERT OR REPLACE INTO manifests VALUES (?,?,?)",
            str(manifest.repo), manifest.commit.value, json.dumps(manifest.as_json()),
        )  # fmt: skip

    def drop_manifest(self, repo: RepoId, commit: Commit) -> None:
        for table in ("manifests", "pins", "proofs", "refs"):
            self._run(
                f"DELETE FROM {table} WHERE repo=? AND commit_id=?",  # noqa: S608  fixed names
                str(repo),
                commit.value,
            )

    def refs(self) -> list[RefRow]:
        rows = self._run("SELECT repo, revision, commit_id, checked_at FROM refs")
        return [
            RefRow(RepoId.parse(str(repo)), Revision(str(rev)), Commit(str(commit)), _f(at))
            for repo, rev, commit, at in rows
        ]

    def put_ref(self, row: RefRow) -> None:
        self._run(
            "INSERT OR REPLACE INTO refs VALUES (?,?,?,?)",
            str(row.repo), row.revision.value, row.commit.value, row.checked_at,
        )  # fmt: skip

    def pins(self) -> set[tuple[RepoId, Commit]]:
        rows = self._run("SELECT repo, commit_id FROM pins")
        return {(RepoId.parse(str(repo)), Commit(str(commit))) for repo, commit in rows}

    def put_pin(self, repo: RepoId, commit: Commit) -> None:
        self._run("INSERT OR IGNORE INTO pins VALUES (?,?)", str(repo), commit.value)

    def drop_pin(self, repo: RepoId, commit: Commit) -> None:
        self._run("DELETE FROM pins WHERE repo=? AND commit_id=?", str(repo), commit.value)

    def proofs(self) -> dict[tuple[RepoId, Commit], float]:
        rows = self._run("SELECT repo, commit_id, proved_at FROM proofs")
        return {(RepoId.parse(str(repo)), Commit(str(commit))): _f(at) for repo, commit, at in rows}

    def put_proof(self, repo: RepoId, commit: Commit, at: float) -> None:
        self._run("INSERT OR REPLACE INTO proofs VALUES (?,?,?)", str(repo), commit.value, at)

    def drop_proof(self, repo: RepoId, commit: Commit) -> None:
        self._run("DELETE FROM proofs WHERE repo=? AND commit_id=?", str(repo), commit.value)

    # torrents

    def torrents(self) -> Iterable[bytes]:
        return [bytes(body) for (body,) in self._run("SELECT body FROM torrents")]  # type: ignore[call-overload]

    def put_torrent(self, name: TorrentName, body: bytes) -> None:
        self._run("INSERT OR REPLACE INTO torrents VALUES (?,?)", name.value, body)

    def drop_torrent(self, name: TorrentName) -> None:
        self._run("DELETE FROM torrents WHERE name=?", name.value)

    # figures

    def received(self) -> dict[tuple[str, str], int]:
        rows = self._run("SELECT sha256, source, bytes FROM received")
        return {(str(sha), str(source)): int(str(count)) for sha, source, count in rows}

    def add_received(self, sha256: Sha256, sources: Mapping[str, int]) -> None:
        for source, count in sources.items():
            self._run(
                "INSERT INTO received VALUES (?,?,?) ON CONFLICT (sha256, source) DO UPDATE"
                " SET bytes = bytes + excluded.bytes",
                sha256.value, source, count,
            )  # fmt: skip

    def counters(self) -> dict[str, int]:
        rows = self._run("SELECT name, value FROM counters")
        return {str(name): int(str(value)) for name, value in rows}

    def put_counters(self, values: Mapping[str, int]) -> None:
        for name, value in values.items():
            self._run("INSERT OR REPLACE INTO counters VALUES (?,?)", name, value)


def _f(value: object) -> float:
    return float(str(value))
