"""Where the project keeps what it stores for a user: datasets, trained networks, and caches that can be made again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeAlias

import platformdirs

Place: TypeAlias = Path
"""A folder or a file."""

HOME_VARIABLE = "FEWSHOT_BENCH_HOME"
_OTHER_CACHE: ContextVar[Path | None] = ContextVar("_OTHER_CACHE", default=None)


def datasets_folder() -> Path:
    """Folder of the imported datasets: `$FEWSHOT_BENCH_HOME/datasets`, or the platform's data folder."""
    return _home(platformdirs.user_data_path("fewshot-bench")) / "datasets"


def checkpoints_folder() -> Path:
    """Folder of the networks that a user trained: `$FEWSHOT_BENCH_HOME/checkpoints`, or the platform's data folder.

    Not in the cache, since they cost more to make again than a cache promises.
    """
    return _home(platformdirs.user_data_path("fewshot-bench")) / "checkpoints"


def cache_folder() -> Path:
    """Folder of embeddings and base stages: `$FEWSHOT_BENCH_HOME/cache`, or the platform's cache folder."""
    other = _OTHER_CACHE.get()
    if other is not None:
        return other
    if HOME_VARIABLE in os.environ:
        return Path(os.environ[HOME_VARIABLE]).expanduser() / "cache"
    return platformdirs.user_cache_path("fewshot-bench")


@contextmanager
def caching_in(folder: Path) -> Iterator[None]:
    """Have another folder of caches for a while, such as an empty one to make everything anew.

    Args:
        folder: that `cache_folder` names until the end.
    """
    token = _OTHER_CACHE.set(folder)
    try:
        yield
    finally:
        _OTHER_CACHE.reset(token)


def _home(default: Path) -> Path:
    return Path(os.environ[HOME_VARIABLE]).expanduser() if HOME_VARIABLE in os.environ else default
