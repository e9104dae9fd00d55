"""The sweeps beside the outcomes: tables that `fewshot-bench sweep` wrote, read as data."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd

from fewshot_bench.errors import OutcomeError
from fewshot_bench.paths import Place
from fewshot_bench.report.page.content import SweepResults
from fewshot_bench.report.spreadsheet_text import unguarded
from fewshot_bench.stored_files import checked_folder, folders_in, is_file, read_bytes

_LARGEST = 16_000_000  # bytes
_NEEDED = {"shot", "mean", "ci95", "is_best"}


def stored_sweeps(folder: Place) -> list[SweepResults]:
    """Every complete sweep below RESULTS/sweeps, by name.

    Raises:
        OutcomeError: a table cannot be read, or is none of a sweep.
    """
    folders = [folder / name for name in folders_in(folder)]
    places = [(checked_folder(one) if isinstance(one, Path) else one) / "sweep.csv" for one in folders]
    return [SweepResults(place.parent.name, _table(place)) for place in places if is_file(place)]


def _table(path: Place) -> pd.DataFrame:
    try:
        frame = pd.read_csv(io.BytesIO(read_bytes(path, _LARGEST)))
    except (OSError, ValueError) as error:
        raise OutcomeError(f"{path} cannot be read ({error}). Repeat that sweep, which writes it again.") from error
    flags = [name for name in ("is_best", "is_transductive") if name in frame]
    if not len(frame) or not set(frame.columns) >= _NEEDED or any(frame[name].dtype != bool for name in flags):
        raise OutcomeError(f"{path} is no table of a sweep. Repeat that sweep, which writes it again, or delete it.")
    return frame.map(lambda value: unguarded(value) if isinstance(value, str) else value)
