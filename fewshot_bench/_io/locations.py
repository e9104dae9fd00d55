"""The folders of datasets, trained networks and caches, and locations of results: paths, or URLs that fsspec knows.

fsspec is imported for URLs only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import platformdirs

from fewshot_bench.errors import LocationError

if TYPE_CHECKING:
    from typing import TypeAlias

    from upath import UPath

    Location: TypeAlias = Path | UPath
else:
    Location = Path

HOME_VARIABLE = "FEWSHOT_BENCH_HOME"
_OTHER_CACHE: ContextVar[Path | None] = ContextVar("_OTHER_CACHE", default=None)
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_EXTRAS = {"s3": "s3", "s3a": "s3"}


def location_of(text: str | Location) -> Location:
    """A folder or file by its path or URL; those on a local disk are plain paths.

    Args:
        text: such as "results", "file:///somewhere/results" or "s3://bucket/folder".

    Raises:
        LocationError: this kind of URL is unknown, or the package that opens it is not installed.
    """
    if not isinstance(text, str):
        return text
    match = _URL.match(text)
    if match is None:
        return Path(text)
    return _local(text) if match[1].lower() in ("file", "local") else _remote(text, match[1])


def is_local(location: Location) -> bool:
    """Whether a location is on a disk, or a network disk such as NFS."""
    return isinstance(location, Path)


def _local(url: str) -> Path:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise LocationError(f"{url} names another machine. Write file:///folder for a folder of this one.")
    return Path(unquote(parts.path))


def _remote(url: str, protocol: str) -> Location:
    from upath import UPath

    try:
        location = UPath(url, use_listings_cache=False)  # others write there too
        location.fs  # noqa: B018  # made now, since it needs a package that may be missing
    except ImportError as error:
        extra = f"fewshot-bench[{_EXTRAS[protocol]}]" if protocol in _EXTRAS else ""
        advice = f'Install it: pip install "{extra}"' if extra else "Install it."
        raise LocationError(f"{protocol}:// needs a package that is not installed ({error}). {advice}") from error
    except ValueError as error:
        raise LocationError(
            f"{url} cannot be opened ({error}). Use a folder, or a URL that fsspec knows such as s3://bucket/folder."
        ) from error
    return location


def datasets_folder() -> Path:
    """Folder of the imported datasets: `$FEWSHOT_BENCH_HOME/datasets`, or the platform's data folder."""
    return _home(platformdirs.user_data_path("fewshot-bench")) / "datasets"


def checkpoints_folder() -> Path:
    """Folder of the networks that a user trained: `$FEWSHOT_BENCH_HOME/checkpoints`, or the platform's data folder.

    They are not in the cache, since training them again is expensive.
    """
    return _home(platformdirs.user_data_path("fewshot-bench")) / "checkpoints"


def cache_folder() -> Path:
    """Folder of embeddings and base stages: `$FEWSHOT_BENCH_HOME/cache`, or the platform's cache folder."""
    return _OTHER_CACHE.get() or machine_cache_folder()


def machine_cache_folder() -> Path:
    """The cache folder of this machine, for measurements of it: `caching_in` does not change it."""
    if HOME_VARIABLE in os.environ:
        return Path(os.environ[HOME_VARIABLE]).expanduser() / "cache"
    return platformdirs.user_cache_path("fewshot-bench")


@contextmanager
def caching_in(folder: Path) -> Iterator[None]:
    """Let `cache_folder` return another folder within the block, such as an empty one to compute everything again."""
    token = _OTHER_CACHE.set(folder)
    try:
        yield
    finally:
        _OTHER_CACHE.reset(token)


def _home(default: Path) -> Path:
    return Path(os.environ[HOME_VARIABLE]).expanduser() if HOME_VARIABLE in os.environ else default
