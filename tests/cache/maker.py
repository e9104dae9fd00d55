"""A process that wants one entry of the cache: says what it does in files, and makes the entry when it is told to."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fewshot_bench._io.storage import write_atomically
from fewshot_bench.cache import build_once
from fewshot_bench.progress import SILENT, Step


class Telling:
    def __init__(self, place: Path) -> None:
        self.place = place

    @contextmanager
    def step(self, description: str, total: int, *, unit: str = "") -> Iterator[Step]:
        self.place.write_text(description)
        with SILENT.step(description, total) as step:
            yield step


def main(entry: Path, signs: Path, name: str, most_bytes: int) -> None:
    if most_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    def make() -> bytes:
        (signs / f"{name}.makes").touch()
        while not (signs / "go").exists():
            time.sleep(0.01)
        return b"content" * 1000

    content = build_once(
        entry,
        "seven letters",
        read=Path.read_bytes,
        build=make,
        write=write_atomically,
        progress=Telling(signs / f"{name}.waits"),
    )
    print(len(content))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
