"""The command `fewshot-bench`: where errors and signals become a line and an exit code."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

import typer

from fewshot_bench._io.ranks import is_first_to_end, own_rank
from fewshot_bench._io.resuming import SAVED, begin, is_anything_saved
from fewshot_bench._io.text import printable
from fewshot_bench.cli.commands import INTERRUPTED, app
from fewshot_bench.errors import DEBUG_VARIABLE, FewshotBenchError, PluginError, is_debugging, show_traceback
from fewshot_bench.plugins import plugin_errors

# Newer releases of Typer carry their own copy of Click, so its base exception is found through Typer's.
_UsageError: type[Exception] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")
_DISK_ERRORS = {
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EROFS", "EFBIG"),  # no room
        *("EIO", "ESTALE", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "EREMOTEIO", "ENODEV", "ENXIO"),  # unreachable
    )
    if hasattr(errno, name)
}
_USER_ERROR = 2
_DEBUG = "--debug"
_RESUMABLE = {"reproduce", "run", "sweep", "train"}
"""Commands that resume where they were stopped."""
_ENDING_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


def main(arguments: list[str] | None = None) -> None:
    """Run a command line (without the program's name; by default that of the process) and exit."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 -- open until the process ends
    code = INTERRUPTED
    with suppress(KeyboardInterrupt):  # a second time, during the last words
        code = exit_code(arguments)
    with suppress(KeyboardInterrupt):
        if arguments is None:  # this process does nothing else, and its end is not to be interrupted once more
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)


def exit_code(arguments: list[str] | None = None) -> int:
    """Run the command line; errors that a user can correct become one line on stderr and code 2."""
    typed = list(sys.argv[1:] if arguments is None else arguments)  # a command may change what is shown at the end
    with _debugging(typed):
        return _exit_code(typed)


@contextmanager
def _debugging(typed: list[str]) -> Iterator[None]:
    """Show tracebacks, in started processes too, if --debug is in the command; no recorded command has it."""
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


@dataclass
class Received:
    """The signal that came; None for none, and for SIGINT, which Python makes a KeyboardInterrupt itself."""

    number: int | None = None

    @property
    def came(self) -> bool:
        """Whether a signal came."""
        return self.number is not None

    @property
    def exit_code(self) -> int:
        """The exit code of a process that was stopped."""
        return INTERRUPTED if self.number is None else 128 + self.number


@contextmanager
def signals_interrupt() -> Iterator[Received]:
    """Let SIGTERM, and SIGHUP of a closed terminal, end a command as Ctrl-C does; other handlers stay in place."""
    received = Received()

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.number = number
        raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()
    ours = [number for number in _ENDING_SIGNALS if is_main and signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, interrupt)
    try:
        yield received
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


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
        except Exception:  # such as a lost connection to the process that has printed the reason
            if is_first_to_end():
                raise
            return _USER_ERROR
    if not is_stopped:
        return result
    _tell(f"\n{_last_words(typed)}")
    return received.exit_code


def _last_words(typed: list[str]) -> str:
    """What a stopped command leaves, and how to resume."""
    if not set(typed) & _RESUMABLE:
        return "stopped."
    program = ["fewshot-bench"] if own_rank() is None else ["torchrun", "...", "-m", "fewshot_bench"]
    command = shlex.join([*program, *typed])
    if is_anything_saved():
        return f"stopped. {SAVED}; run the same command again to resume: {command}"
    return f"stopped before anything new was saved. To start again: {command}"


def _outcome(typed: list[str]) -> int:
    """The exit code of a command that is not interrupted."""
    try:
        with plugin_errors():
            result = app(args=typed, standalone_mode=False, obj=typed)
    except FewshotBenchError as error:
        show_traceback(error)
        has_more = isinstance(error, PluginError) and hasattr(error, "traceback_text") and not is_debugging()
        return _complain(f"{str(error).rstrip('.')}. For the whole traceback add --debug." if has_more else str(error))
    except _UsageError as error:
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help of the command
            typer.echo(message, err=True)
            return _USER_ERROR
        if type(error).__name__ == "NoSuchOption":
            return _complain(_about_option(error))
        advice = _advice_on_files(message, typed) or _see_help(error)
        sentence = message if message.endswith("?") else f"{message.rstrip('.')}."
        return _complain(f"{sentence} {advice}") if message else _USER_ERROR
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except SystemExit as error:
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        return 0  # Rich makes it a 1, which means that episodes failed
    except OSError as error:
        if error.filename is None and error.errno not in _DISK_ERRORS:
            raise
        show_traceback(error)
        place = f"{error.filename}: " if error.filename is not None else ""
        return _complain(
            f"{place}{error.strerror or error}. Check the path, its permissions and the free space."
            " Stored results were not changed."
        )
    return result if isinstance(result, int) else 0


def _about_option(error: Any) -> str:
    """An option that the command does not have, and the one that it may mean."""
    from fewshot_bench.cli.misspelt_options import option_to_type, options_of

    offer = option_to_type(error.option_name, options_of(error.ctx))
    return f"No such option: {error.option_name}. {f'{offer} ' if offer else ''}{_see_help(error)}"


def _see_help(error: Any) -> str:
    """Where the help of the command is that was typed."""
    context = getattr(error, "ctx", None)
    command = "" if context is None else context.command_path.removeprefix(context.find_root().command_path)
    return f"See: fewshot-bench{command} --help"


def _advice_on_files(message: str, typed: list[str]) -> str:
    """What to type if a file of accuracies was given to a command that takes none; otherwise empty."""
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
    """Print to stderr, if it can be written to; of several processes the first to end does."""
    if not is_first_to_end():
        return
    with suppress(OSError):
        typer.echo(line, err=True)
