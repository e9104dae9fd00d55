"""The whole traceback of an error that is told in one line, for those who ask: `--debug`, or FEWSHOT_BENCH_DEBUG=1.

An error that travels between processes, or is kept while others are tried, loses its traceback; the text of it stays.
"""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress

DEBUG_VARIABLE = "FEWSHOT_BENCH_DEBUG"
_ATTRIBUTE = "traceback_text"
_shown: set[str] = set()


def is_debugging() -> bool:
    """Whether tracebacks are wanted."""
    return os.environ.get(DEBUG_VARIABLE, "").strip().lower() not in ("", "0", "false", "no")


def keep_traceback(error: BaseException, of: BaseException | None = None) -> None:
    """Note the traceback of an error as text, unless that has been done.

    Args:
        error: that is told later, perhaps in another process.
        of: the error whose traceback it is; itself by default.
    """
    if not hasattr(error, _ATTRIBUTE):
        with suppress(AttributeError, TypeError):  # of a class that takes no attributes
            source = error if of is None else of
            setattr(error, _ATTRIBUTE, getattr(source, _ATTRIBUTE, "") or "".join(traceback.format_exception(source)))


def show_traceback(error: BaseException) -> None:
    """Write the whole traceback of an error to stderr, if that is wanted, and once however often it is raised."""
    if not is_debugging():
        return
    keep_traceback(error)
    text = str(getattr(error, _ATTRIBUTE, ""))
    if text not in _shown:
        _shown.add(text)
        with suppress(OSError):
            print(text, file=sys.stderr, flush=True)
