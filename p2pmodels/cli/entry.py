"""The one place where an exception becomes an exit code."""

from __future__ import annotations

import asyncio
import os
import sys
import traceback

from p2pmodels.cli.text import clean
from p2pmodels.errors import ConfigError, NameRefused, P2PModelsError, UsageError
from p2pmodels.supervision import Fatal

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, what shells use


def main(arguments: list[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    from p2pmodels.cli.app import app

    try:
        app(arguments, prog_name="p2pmodels")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (`head`) has left; keep the interpreter from complaining at exit as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except BaseException as error:
        return _failed(_first(error))
    return 0


def report(error: P2PModelsError) -> None:
    """Print what happened and what to do about it."""
    described = error.as_json()
    print(f"error [{clean(described['code'])}]: {clean(described['message'])}", file=sys.stderr)
    if described.get("advice"):
        print(f"→ {clean(described['advice'])}", file=sys.stderr)


def _failed(error: BaseException) -> int:
    if os.environ.get("P2PMODELS_LOG__LEVEL", "").lower() == "debug":
        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    if isinstance(error, Fatal):
        print(f"error [fatal]: {clean(error)}", file=sys.stderr)
        return EXIT_FAILED
    if not isinstance(error, P2PModelsError):
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        error = P2PModelsError(
            what, advice="Set P2PMODELS_LOG__LEVEL=debug to see more; please report it."
        )
    report(error)
    return EXIT_USAGE if isinstance(error, (ConfigError, NameRefused, UsageError)) else EXIT_FAILED


def _first(error: BaseException) -> BaseException:
    """The first failure inside the groups that task groups raise, ours before others'."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    inner = [_first(each) for each in error.exceptions]
    return next((each for each in inner if isinstance(each, P2PModelsError)), inner[0])
