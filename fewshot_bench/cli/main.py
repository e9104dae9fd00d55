"""The command `fewshot-bench`: commands, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import errno
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated

import typer

from fewshot_bench._io.resuming import SAVED, begin, is_anything_saved
from fewshot_bench._io.text import printable
from fewshot_bench._io.versions import __version__
from fewshot_bench.cli.audit import audit
from fewshot_bench.cli.cache import cache
from fewshot_bench.cli.compare import compare
from fewshot_bench.cli.data import data
from fewshot_bench.cli.episodes import episodes
from fewshot_bench.cli.leaderboard import leaderboard
from fewshot_bench.cli.ls import ls, study
from fewshot_bench.cli.outcomes import outcomes
from fewshot_bench.cli.power import power
from fewshot_bench.cli.report import report
from fewshot_bench.cli.reproduce import reproduce
from fewshot_bench.cli.run import run
from fewshot_bench.cli.status import status
from fewshot_bench.cli.store import store
from fewshot_bench.cli.sweep import sweep
from fewshot_bench.cli.terminal import INTERRUPTED, signals_interrupt
from fewshot_bench.cli.train import train
from fewshot_bench.errors import DEBUG_VARIABLE, FewshotBenchError, PluginError, is_debugging, show_traceback
from fewshot_bench.plugins import plugin_errors

app = typer.Typer(
    name="fewshot-bench",
    help="Is one few-shot image-classification method really better than another, on the same tasks?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(run)
app.command()(train)
app.command()(sweep)
app.command()(study)
app.command()(status)
app.command()(compare)
app.command()(leaderboard)
app.command()(power)
app.command()(report)
app.command()(audit)
app.command()(reproduce)
app.command()(ls)
app.add_typer(data, name="data")
app.add_typer(cache, name="cache")
app.add_typer(outcomes, name="outcomes")
app.add_typer(store, name="store")
app.add_typer(episodes, name="episodes")

# Newer releases of Typer carry their own copy of Click, so its base exception is found through Typer's.
_UsageError: type[Exception] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")
_OF_A_DISK = {
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EROFS", "EFBIG"),  # no more room
        *("EIO", "ESTALE", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "EREMOTEIO", "ENODEV", "ENXIO"),  # not there any more
    )
    if hasattr(errno, name)
}
_USER_ERROR = 2
_DEBUG = "--debug"
_GO_ON = {"reproduce", "run", "sweep", "train"}
"""Commands that go on where they were stopped."""


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fewshot-bench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug", help=f"Show the whole traceback of an error, before its line; so does {DEBUG_VARIABLE}=1."
        ),
    ] = False,
) -> None:
    """Is one few-shot image-classification method really better than another, on the same tasks?"""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit.

    Args:
        arguments: without the program's name; those of the process by default.
    """
    try:
        code = exit_code(arguments)
    except KeyboardInterrupt:  # once more, during the last words
        code = INTERRUPTED
    sys.exit(code)


def exit_code(arguments: list[str] | None = None) -> int:
    """Run the command line; errors that a user can mend become one line on stderr and code 2."""
    typed = list(sys.argv[1:] if arguments is None else arguments)  # a command may change what is told in the end
    with _debugging(typed):
        return _exit_code(typed)


@contextmanager
def _debugging(typed: list[str]) -> Iterator[None]:
    """Have tracebacks shown, here and by processes that are started, where --debug stands anywhere in a command.

    It is taken out, so that it is in no command that is recorded or told.
    """
    if _DEBUG not in typed:
        yield
        return
    typed[:] = [text for text in typed if text != _DEBUG]
    before = os.environ.get(DEBUG_VARIABLE)
    os.environ[DEBUG_VARIABLE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[DEBUG_VARIABLE]
        else:
            os.environ[DEBUG_VARIABLE] = before


def _exit_code(typed: list[str]) -> int:
    begin()
    with signals_interrupt() as received:
        try:
            result = _outcome(typed)
            is_stopped = result == INTERRUPTED or (received.came and result != 0)  # a closed terminal is an error, too
        except (KeyboardInterrupt, typer.Abort) as error:
            if str(error):
                return _complain(str(error), received.exit_code)
            is_stopped = True
    if not is_stopped:
        return result
    _tell(f"\n{_last_words(typed)}")
    return received.exit_code


def _last_words(typed: list[str]) -> str:
    """What a stopped command leaves, and how to go on."""
    if not set(typed) & _GO_ON:
        return "stopped."
    command = shlex.join(["fewshot-bench", *typed])
    if is_anything_saved():
        return f"stopped. {SAVED}; run the same command again to go on from there: {command}"
    return f"stopped before anything new was saved. To start again: {command}"


def _outcome(typed: list[str]) -> int:
    """The exit code of a command that nobody interrupts."""
    try:
        with plugin_errors():
            result = app(args=typed, standalone_mode=False, obj=typed)
    except FewshotBenchError as error:
        show_traceback(error)
        has_more = isinstance(error, PluginError) and hasattr(error, "traceback_text") and not is_debugging()
        return _complain(f"{str(error).rstrip('.')}. For the whole traceback add --debug." if has_more else str(error))
    except _UsageError as error:
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help of a command without its sub-command
            typer.echo(message, err=True)
            return _USER_ERROR
        advice = _on_files(message, typed) or "See: fewshot-bench --help"
        return _complain(f"{message.rstrip('.')}. {advice}") if message else _USER_ERROR
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except SystemExit as error:
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        return 0  # Rich makes it a 1, which would say that episodes failed
    except OSError as error:
        if error.filename is None and error.errno not in _OF_A_DISK:
            raise
        show_traceback(error)
        place = f"{error.filename}: " if error.filename is not None else ""
        return _complain(
            f"{place}{error.strerror or error}. Check the path, its permissions and the space that is left;"
            " what is stored already is as it was."
        )
    return result if isinstance(result, int) else 0


def _on_files(message: str, typed: list[str]) -> str:
    """What to type to those who give a file of accuracies to a command that takes none; empty for the others."""
    if "unexpected extra argument" not in message:
        return ""
    from fewshot_bench.outcomes.claimed import ACCURACY_FILES
    from fewshot_bench.report.names import import_first

    file = next((text for text in typed if text in message and text.lower().endswith(ACCURACY_FILES)), None)
    return "" if file is None else import_first(file)


def _complain(sentence: str, code: int = _USER_ERROR) -> int:
    _tell("error: " + printable(" ".join(sentence.split())))
    return code


def _tell(line: str) -> None:
    """Say something on stderr, if somebody is there to hear it."""
    with suppress(OSError):
        typer.echo(line, err=True)
