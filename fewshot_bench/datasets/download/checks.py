"""What is checked of a download before, while and after it arrives, each with its sentence."""

from __future__ import annotations

import http.client
import shutil
from pathlib import Path

from fewshot_bench.datasets.download import limits
from fewshot_bench.datasets.download.part import Part, content_of, digest_of, hasher_for
from fewshot_bench.datasets.download.remote_file import OTHER_WAY, RemoteFile, shown, wrong_size
from fewshot_bench.datasets.web_page import is_web_page
from fewshot_bench.errors import DatasetError
from fewshot_bench.progress import Progress


def is_here(target: Path, file: RemoteFile, progress: Progress) -> bool:
    """Whether the file is there, with the size and digest that are known of it."""
    if target.is_dir():
        raise DatasetError(f"{target} is a folder, but {file.name} should become a file there. Move the folder away.")
    if not target.is_file() or file.size not in (None, target.stat().st_size):
        return False
    hasher = hasher_for(file.digest)
    if hasher is None or file.digest is None:
        return True
    with progress.step(f"checking {file.name}", target.stat().st_size, unit="bytes") as step:
        for piece in content_of(target):
            hasher.update(piece)
            step.advance(len(piece))
    return digest_of(hasher) == file.digest.lower()


def check_announced_size(name: str, url: str, expected: int | None, offered: int | None) -> None:
    """Compare what the server announces with what is expected, before the first byte."""
    if offered is None:
        return
    if expected is not None:
        if offered != expected:
            raise wrong_size(name, url, expected, offered)
    elif offered == 0:
        raise DatasetError(f"{name} should have content, but {shown(url)} is empty. {OTHER_WAY}")
    elif offered > limits.SIZE_LIMIT:
        raise DatasetError(f"{name} should have at most {limits.SIZE_LIMIT:,} bytes, but {shown(url)} has {offered:,}.")


def check_limit(file: RemoteFile, part: Part, size: int, whole: int | None) -> None:
    """Refuse a transfer that does not end where it should."""
    limit = limits.SIZE_LIMIT if whole is None else whole
    if size > limit:
        part.drop()
        raise DatasetError(
            f"{file.name} should have at most {limit:,} bytes, but {shown(file.url)} sends more; what came was "
            f"deleted. {OTHER_WAY}"
        )


def check_no_web_page(file: RemoteFile, response: http.client.HTTPResponse, beginning: bytes) -> None:
    """Refuse a page where a file was expected, by its announced type or its first bytes."""
    if file.name.lower().endswith((".html", ".htm")):
        return
    kind = response.headers.get_content_type()
    if kind in ("text/html", "application/xhtml+xml") or is_web_page(beginning):
        raise DatasetError(
            f"the link to {file.name} should lead to the file, but leads to a web page (log-in, consent or error): "
            f"{shown(file.url)}. Open it in a browser, fetch the file there and bring it in with: "
            "fewshot-bench data import NAME --from PATH"
        )


def check_room(name: str, part: Part, size: int | None) -> None:
    """Refuse a file that does not fit on the disk beside what is here of it."""
    if size is None:
        return
    here = part.path.stat().st_size if part.path.is_file() else 0  # continued, or deleted before the first byte
    free = shutil.disk_usage(part.path.parent).free
    if size - here > free:
        raise DatasetError(
            f"{name} needs {size - here:,} more bytes in {part.path.parent}, but {free:,} are free. Make room, or "
            "choose a folder on another disk."
        )
