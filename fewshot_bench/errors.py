"""What can go wrong on the user's side, each with one sentence that says what to do.

The command line turns these exceptions, and only these, into one line on stderr and exit code 2. `--debug` or
FEWSHOT_BENCH_DEBUG=1 also shows the traceback, whose text stays with an error that travels between processes.
"""

from __future__ import annotations

import difflib
import os
import sys
import traceback
from collections.abc import Iterable
from contextlib import suppress

from fewshot_bench.literature_names import what_to_type


class FewshotBenchError(Exception):
    """Base of every error that a user can fix.

    >>> import fewshot_bench as fb
    >>> try:
    ...     fb.open_dataset("glyph")
    ... except fb.FewshotBenchError as error:
    ...     print(error)
    there is no dataset called 'glyph'. Did you mean glyphs? A folder of your own is ./NAME.
    """


class ArgumentError(FewshotBenchError, TypeError):
    """A function has no such argument, or takes another type."""


class FieldError(FewshotBenchError, ValueError):
    """A field of a model does not take a value."""


class UnknownNameError(FewshotBenchError):
    """A name is not registered; the message says what to type for a name of the literature, or offers the nearest."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        known = sorted(known)
        if answer := what_to_type(kind, name, known):
            super().__init__(f"there is no {kind} called '{name}'. {answer}")
            return
        nearest = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
        others = f"Known: {', '.join(known)}." if known else "There is none."
        offer = f"Did you mean {' or '.join(nearest)}?" if nearest else others
        super().__init__(f"there is no {kind} called '{name}'. {offer}{' ' + hint if hint else ''}")


class CodeError(FewshotBenchError):
    """What a user names as `module:callable` cannot be imported, or is of the wrong kind."""


class PluginError(FewshotBenchError):
    """A plug-in raised an error or returned a wrong value; the sentence names its file and line."""


class CodeNotTrustedError(FewshotBenchError):
    """A name means code, or data that runs code, and the user has not said that it may be imported."""

    def __init__(self, kind: str, name: str) -> None:
        registry = f"{kind}{'es' if kind.endswith('s') else 's'}".upper()
        super().__init__(
            f"the {kind} {name} names code, which is imported only with --trust-code (in Python: {registry}.admit)."
        )


class ConformanceError(FewshotBenchError, AssertionError):
    """An adaptation, loss, backbone or dataset lacks a property that results rely on; see `fewshot_bench.testing`."""


class DatasetError(FewshotBenchError):
    """A dataset is absent, incomplete, damaged, or its source cannot be read."""


class EpisodeError(FewshotBenchError):
    """A protocol asks for episodes that the split cannot give, or a lock file does not verify."""


class PositionError(FewshotBenchError, IndexError):
    """A position lies outside, as an IndexError says of a list."""


class ShapeError(FewshotBenchError):
    """Arrays that belong together have different sizes."""


class WeightsError(FewshotBenchError):
    """A weights file is missing, unsafe to read, or does not fit the backbone."""


class EmbeddingError(FewshotBenchError):
    """Embeddings are not finite numbers or do not belong to the split."""


class ClassifierError(FewshotBenchError):
    """A kept classifier cannot be read, does not fit what it names, or cannot be written."""


class CacheError(FewshotBenchError):
    """A size or age given for the cache cannot be read."""


class StudyError(FewshotBenchError):
    """A study asks for something that cannot be done."""


class LocationError(FewshotBenchError, OSError):
    """A folder or file behind a URL cannot be opened or written, as an OSError says of a disk."""


class OutcomeError(FewshotBenchError):
    """Stored outcomes are damaged, absent, or belong to something else."""


class IrregularFileError(OutcomeError):
    """A link, a pipe, a device or a folder lies where a stored file or folder should be.

    Attributes:
        finding: what is there, in words that follow "it is".
    """

    def __init__(self, place: object, finding: str, expected: str = "a regular file") -> None:
        self.finding = finding
        super().__init__(f"{place} is {finding}, and should be {expected}. Remove it, or put {expected} there.")


class AccuracyFileError(FewshotBenchError):
    """A file of accuracies cannot be read, or its rows do not say what they should."""


class ComparisonError(FewshotBenchError):
    """Two methods have no episodes in common, so no paired test exists."""


class AuditError(FewshotBenchError):
    """Stored results do not pass their audit, or there is nothing to audit."""


class ReproductionError(FewshotBenchError):
    """A stored result cannot be run again here."""


DEBUG_VARIABLE = "FEWSHOT_BENCH_DEBUG"
_ATTRIBUTE = "traceback_text"
_shown: set[str] = set()


def is_debugging() -> bool:
    """Whether tracebacks are wanted."""
    return os.environ.get(DEBUG_VARIABLE, "").strip().lower() not in ("", "0", "false", "no")


def keep_traceback(error: BaseException, of: BaseException | None = None) -> None:
    """Store the traceback of an error, or of another `of`, in it as text, unless it has one."""
    if not hasattr(error, _ATTRIBUTE):
        with suppress(AttributeError, TypeError):  # its class may take no attributes
            source = error if of is None else of
            setattr(error, _ATTRIBUTE, getattr(source, _ATTRIBUTE, "") or "".join(traceback.format_exception(source)))


def show_traceback(error: BaseException) -> None:
    """Write the traceback of an error to stderr, if tracebacks are wanted, and only once."""
    if not is_debugging():
        return
    keep_traceback(error)
    text = str(getattr(error, _ATTRIBUTE, ""))
    if text not in _shown:
        _shown.add(text)
        with suppress(OSError):
            print(text, file=sys.stderr, flush=True)
