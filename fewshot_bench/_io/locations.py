"""Where the project keeps what it stores for a user: datasets, trained networks, and caches that can be made again.

Results may also lie behind a URL that fsspec knows, such as s3://bucket/folder; fsspec is imported for those alone.
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

from fewshot_bench.errors import PlaceError

if TYPE_CHECKING:
    from typing import TypeAlias

    from upath import UPath

    Place: TypeAlias = Path | UPath
else:
    Place = Path

HOME_VARIABLE = "FEWSHOT_BENCH_HOME"
_OTHER_CACHE: ContextVar[Path | None] = ContextVar("_OTHER_CACHE", default=None)
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_OF_THIS_DISK = ("file", "local")
_EXTRAS = {"s3": "s3", "s3a": "s3"}


def place_of(text: str | Place) -> Place:
    """A folder or file by its path or URL; those on a local disk are plain paths.

    Args:
        text: such as "results", "file:///somewhere/results" or "s3://bucket/folder"; what is a place already stays it.

    Raises:
        PlaceError: there is no such kind of URL, or the package that opens it is not installed.
    """
    found = _URL.match(text) if isinstance(text, str) else None
    if found is None:
        return Path(text) if isinstance(text, str) else text
    if found[1].lower() in _OF_THIS_DISK:
        return _local(str(text))
    return _behind_url(str(text), found[1])


def is_local(place: Place) -> bool:
    """Whether a place is on a disk of this machine, or on one that looks like it, such as NFS."""
    return isinstance(place, Path)


def _local(url: str) -> Path:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise PlaceError(f"{url} names another machine. Write file:///folder for a folder of this one.")
    return Path(unquote(parts.path))


def _behind_url(url: str, protocol: str) -> Place:
    from upath import UPath

    try:
        place = UPath(url, use_listings_cache=False)  # others write there too, so no listing is remembered
        place.fs  # noqa: B018  # made now, since it needs a package that may be absent
    except ImportError as error:
        extra = f"fewshot-bench[{_EXTRAS[protocol]}]" if protocol in _EXTRAS else ""
        advice = f'Install it: pip install "{extra}"' if extra else "Install it."
        raise PlaceError(f"{protocol}:// needs a package that is not installed ({error}). {advice}") from error
    except ValueError as error:
        raise PlaceError(
            f"{url} cannot be opened ({error}). Use a folder, or a URL that fsspec knows such as s3://bucket/folder."
        ) from error
    return place


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
