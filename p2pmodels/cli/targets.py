"""What a verb is about: `REPO[@REV]` as types."""

from __future__ import annotations

from dataclasses import dataclass

from p2pmodels.core.names import RepoId, Revision

DEFAULT_REVISION = "main"


@dataclass(frozen=True, slots=True)
class Target:
    """A repo at a revision."""

    repo: RepoId
    revision: Revision

    def as_json(self) -> dict[str, object]:
        """The body of a request about it."""
        return {"repo": str(self.repo), "revision": str(self.revision)}

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}"


def parse_target(text: str) -> Target:
    """Read `org/name` or `org/name@revision`. Raises NameRefused."""
    repo, mark, revision = text.partition("@")
    return Target(RepoId.parse(repo), Revision(revision if mark else DEFAULT_REVISION))


def parse_repo(text: str) -> RepoId:
    """Read `org/name`. Raises NameRefused."""
    return RepoId.parse(text)
