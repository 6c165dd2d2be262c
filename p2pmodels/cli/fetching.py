"""`fetch`: asks the daemon for files, shows them coming and puts them where the user wants.

1. The daemon fetches; this only listens. Ctrl-C here leaves a partial there, never a broken file.
2. What finished is put in its place even when another file failed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from p2pmodels.cli import answers
from p2pmodels.cli.client import ControlClient, JsonObject
from p2pmodels.cli.connection import Connection
from p2pmodels.cli.placing import How, Placer, parse_wanted
from p2pmodels.cli.tables import console
from p2pmodels.cli.targets import Target
from p2pmodels.cli.text import clean, human_bytes, human_sources
from p2pmodels.errors import P2PModelsError, UsageError
from p2pmodels.workers import Lane

PATTERNS_LIMIT = 1000  # patterns in one request; more is a shell expansion gone wrong
ROWS_SHOWN = 8  # files with a bar of their own; more would scroll


@dataclass(frozen=True)
class FetchRequest:
    """What the user typed."""

    target: Target
    patterns: tuple[str, ...]
    to: Path | None
    is_json: bool


class View(Protocol):
    """Who is told how it goes."""

    def plan(self, plan: answers.Plan) -> None: ...

    def progress(self, files: list[answers.RunningFile]) -> None: ...

    def file(self, file: answers.FinishedFile) -> None: ...

    def placed(self, path: str, target: Path, how: How) -> None: ...

    def done(self, done: answers.FetchDone) -> None: ...


async def fetch_files(connection: Connection, request: FetchRequest) -> None:
    """Fetch, show, place. Raises what the daemon reports."""
    if len(request.patterns) > PATTERNS_LIMIT:
        raise UsageError(f"{len(request.patterns)} patterns; quote a glob to pass it as it is")
    body = {**request.target.as_json(), "patterns": list(request.patterns)}
    finished: list[answers.FinishedFile] = []
    failure: P2PModelsError | None = None
    with ExitStack() as screen:
        view = _view(request, screen)
        async with ControlClient(connection) as client, Lane("p2pmodels-place") as lane:
            try:
                async for event in client.events("fetch", body):
                    if request.is_json and (request.to is None or event.get("event") != "done"):
                        print(json.dumps(event), flush=True)
                    _tell(view, event, finished)
                    last = event
            except P2PModelsError as error:
                failure = error
            if request.to is not None:
                placer = Placer(request.to, lane, client.file)
                for file in finished:
                    wanted = parse_wanted(file)
                    how = await placer.place(wanted)
                    view.placed(file.path, request.to / wanted.path.value, how)
        if failure is not None:
            if request.is_json:
                print(json.dumps({"event": "error", "error": failure.as_json()}), flush=True)
            raise failure
        if request.is_json and request.to is not None:
            print(json.dumps(last), flush=True)  # `done` is the last line, after what was placed
        view.done(answers.read(answers.FetchDone, last))


def _tell(view: View, event: JsonObject, finished: list[answers.FinishedFile]) -> None:
    kind = event.get("event")
    if kind == "plan":
        view.plan(answers.read(answers.Plan, event))
    elif kind == "progress":
        view.progress(answers.read(answers.Progress, event).files)
    elif kind == "file":
        file = answers.read(answers.FinishedFile, event)
        finished.append(file)
        view.file(file)


def _view(request: FetchRequest, screen: ExitStack) -> View:
    if request.is_json:
        return JsonView()
    out = console()
    if not out.is_terminal:
        return PlainView(lambda line: print(line, flush=True))
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
    )
    return BarView(screen.enter_context(Progress(*columns, console=out, expand=True)))


class JsonView:
    """The events were printed as they came; only what this command does itself is added."""

    def plan(self, plan: answers.Plan) -> None: ...

    def progress(self, files: list[answers.RunningFile]) -> None: ...

    def file(self, file: answers.FinishedFile) -> None: ...

    def placed(self, path: str, target: Path, how: How) -> None:
        event = {"event": "placed", "path": path, "target": str(target), "how": how.value}
        print(json.dumps(event), flush=True)

    def done(self, done: answers.FetchDone) -> None: ...


class PlainView:
    """One line for each thing that happened: for logs and pipes."""

    def __init__(self, print_line: Callable[[str], None]) -> None:
        self._print = print_line
        self._cached: frozenset[str] = frozenset()

    def plan(self, plan: answers.Plan) -> None:
        self._cached = frozenset(file.path for file in plan.files if file.is_cached)
        total = human_bytes(sum(file.size for file in plan.files))
        where = f"{clean(plan.repo)} at {clean(plan.commit)[:10]}"
        self._print(f"{where}: {len(plan.files)} files, {total}, {len(self._cached)} cached")

    def progress(self, files: list[answers.RunningFile]) -> None: ...

    def file(self, file: answers.FinishedFile) -> None:
        came = "cached" if file.path in self._cached else human_sources(file.sources)
        self._print(f"{clean(file.path)}  {human_bytes(file.size)}  {came}".rstrip())

    def placed(self, path: str, target: Path, how: How) -> None:
        self._print(f"{clean(target)}  ({how.value})")

    def done(self, done: answers.FetchDone) -> None:
        came = human_sources(done.sources)
        self._print(f"done: {done.files} files, {human_bytes(done.bytes)}" + (came and f": {came}"))


class BarView:
    """A bar for the whole, one for each file that runs, a line for each that is done."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._lines = PlainView(lambda line: progress.console.print(line, markup=False))
        self._whole: TaskID | None = None
        self._rows: dict[str, TaskID] = {}
        self._files = 0
        self._sizes: dict[str, int] = {}
        self._landed: dict[str, int] = {}

    def plan(self, plan: answers.Plan) -> None:
        self._lines.plan(plan)
        self._files = len(plan.files)
        self._sizes = {file.path: file.size for file in plan.files}
        total = sum(self._sizes.values())
        self._whole = self._progress.add_task("all files", total=total, figures="")

    def progress(self, files: list[answers.RunningFile]) -> None:
        for file in files:
            self._landed[file.path] = file.landed
        shown = {file.path: file for file in files[:ROWS_SHOWN]}
        for path in self._rows.keys() - shown.keys():
            self._progress.remove_task(self._rows.pop(path))
        for path, file in shown.items():
            if path not in self._rows:
                row = self._progress.add_task(clean(path), total=file.size, figures="")
                self._rows[path] = row
            rate = f"{human_bytes(file.rate_bytes_per_s)}/s"
            figures = f"{human_bytes(file.size)}  {rate}  {human_sources(file.sources)}"
            self._progress.update(self._rows[path], completed=file.landed, figures=figures)
        self._show_whole(sum(file.rate_bytes_per_s for file in files))

    def file(self, file: answers.FinishedFile) -> None:
        if file.path in self._rows:
            self._progress.remove_task(self._rows.pop(file.path))
        self._landed[file.path] = file.size
        self._lines.file(file)
        self._show_whole(0)

    def placed(self, path: str, target: Path, how: How) -> None:
        self._lines.placed(path, target, how)

    def done(self, done: answers.FetchDone) -> None:
        self._lines.done(done)

    def _show_whole(self, rate: float) -> None:
        if self._whole is not None:
            landed = sum(self._landed.values())
            total = human_bytes(sum(self._sizes.values()))
            figures = f"{human_bytes(landed)} of {total}"
            if rate:
                figures += f"  {human_bytes(rate)}/s"
            self._progress.update(self._whole, completed=landed, figures=figures)
