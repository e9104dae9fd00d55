"""Whether this process has saved work that the same command goes on from, for the last words of one that is stopped."""

from __future__ import annotations

import threading

SAVED = "What is finished is on disk"
"""What a stopped command says if it has saved something; a process that started others looks for it in their words."""

_saved = threading.Event()


def note_saved() -> None:
    """Take note that work was saved: outcomes, an epoch, an entry of the cache, a dataset."""
    _saved.set()


def is_anything_saved() -> bool:
    """Whether work was saved since the command began."""
    return _saved.is_set()


def begin() -> None:
    """A command begins: what others have saved before in this process is not its work."""
    _saved.clear()
