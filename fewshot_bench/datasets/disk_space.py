"""Is there room for it? Asked before hours of work, not found out after them."""

from __future__ import annotations

import shutil
from pathlib import Path

from fewshot_bench.errors import DatasetError


def check_disk_space(folder: Path, needed: int, what: str) -> None:
    """Refuse to begin what cannot be finished.

    Args:
        folder: where it is to be written; it need not exist yet.
        needed: bytes.
        what: what needs the space, for the message.

    Raises:
        DatasetError: fewer bytes are free.
    """
    existing = nearest_folder(folder)
    if existing is None:
        return
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise DatasetError(
            f"{what} need {readable_bytes(needed)}, but {existing} has {readable_bytes(free)} free. Make room, "
            "or set FEWSHOT_BENCH_HOME to a folder on another disk."
        )


def nearest_folder(folder: Path) -> Path | None:
    """The folder itself, or the first of those around it that is there; its disk is where it would be made."""
    return next((place for place in (folder, *folder.parents) if place.is_dir()), None)


def readable_bytes(count: int) -> str:
    """A number of bytes as people write it, e.g. "12.9 GB"."""
    value = float(count)
    for unit in ("bytes", "KB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} bytes" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
