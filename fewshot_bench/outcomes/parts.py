"""The parts of a cell, and what they hold together."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fewshot_bench.errors import IrregularFileError, OutcomeError
from fewshot_bench.limits import MOST_EPISODES
from fewshot_bench.outcomes.columns import Columns, Identity, frame_of, joined
from fewshot_bench.outcomes.part import Part
from fewshot_bench.outcomes.stored_table import LARGEST_PART
from fewshot_bench.paths import Place
from fewshot_bench.stored_files import files_under, read_all

T = TypeVar("T")
_FOLDER = re.compile(r"run=\d{1,5}")
_MOST_CLAIMED = 4 * MOST_EPISODES  # episodes may be stored several times
_WAITS = (0.0, 0.05, 0.2, 1.0, 3.0)  # seconds; a listing of a network disk may be old for a while
_MAY_DIFFER = ("run", "episode", "seconds")  # between two rows about one episode; the first two are the same
_MOVED = (errno.ENOENT, errno.ESTALE)


def parts_among(folder: Place, names: Iterable[str]) -> list[Part]:
    """Those of a cell's files that are parts, by name; what an interrupted write has left is none.

    Args:
        folder: of the cell.
        names: of its files, relative to it.

    Raises:
        OutcomeError: something else is where a folder of parts should be, or the names claim too many episodes.
    """
    ordered = sorted(names)
    odd = next((name for name in ordered if _FOLDER.fullmatch(name)), None)
    if odd is not None:
        raise IrregularFileError(folder / odd, "no folder", "a folder")
    found = [Part.named(folder, name) for name in ordered]
    parts = [part for part in found if part is not None]
    counts = [part.stretch[2] - part.stretch[1] for part in parts if part.stretch is not None]
    claimed = sum(count for count in counts if count <= MOST_EPISODES)  # of more, the part itself is refused
    if claimed > _MOST_CLAIMED:
        raise OutcomeError(f"{folder} is damaged (the names of its parts claim {claimed:,} episodes). Delete it.")
    return parts


def parts_in(folder: Place) -> list[Part]:
    """The parts of a cell, by name.

    Args:
        folder: of the cell.
    """
    # While one part takes the place of another, a listing may show neither; a second one shows the new one.
    return parts_among(folder, files_under(folder)) or parts_among(folder, files_under(folder))


def with_parts(folder: Place, use: Callable[[list[Part]], T]) -> T:
    """Do something with the parts of a cell, again if a compaction removes them meanwhile.

    Args:
        folder: of the cell.
        use: raises FileNotFoundError where one of them is gone.
    """
    return again_where_moved(lambda: use(parts_in(folder)))


def again_where_moved(use: Callable[[], T]) -> T:
    """Do something with the parts of some cells, again if a compaction removes them meanwhile.

    Args:
        use: looks which there are, and raises FileNotFoundError where one of them is gone.
    """
    for wait in _WAITS:
        if wait:
            time.sleep(wait)
        try:
            return use()
        except OSError as error:
            if error.errno not in _MOVED and not isinstance(error, FileNotFoundError):
                raise
            gone = error
    raise gone


def episodes_of(
    parts: Sequence[Part],
    identity: Identity,
    *,
    with_predictions: bool = True,
    known: dict[str, Columns] | None = None,
) -> pd.DataFrame:
    """All episodes of some parts of one cell, by run and episode, each once: of copies, the one that took least time.

    Which copy counts depends on the copies alone, not on the parts that hold them: see `compaction`.

    Args:
        parts: at least one, by name.
        identity: of the cell.
        with_predictions: statistics of accuracies can do without them.
        known: rows without predictions of parts that were read before, by name; those that are read now are added.

    Returns:
        The columns of `episode_frame`, [E].

    Raises:
        FileNotFoundError: a part is gone.
        OutcomeError: a part is damaged, or two disagree about an episode in anything but the seconds.
    """
    before = {} if known is None or with_predictions else known
    new = [part for part in parts if part.name not in before]
    contents = read_all([part.place for part in new], LARGEST_PART)
    read = {
        part.place: part.read(content, identity, with_predictions=with_predictions)
        for part, content in zip(new, contents, strict=True)
    }
    columns = [before[part.name] if part.name in before else read[part.place] for part in parts]
    before.update({part.name: read[part.place] for part in new})
    frame = merged(parts, columns)
    return episodes_of(parts, identity).drop(columns="predictions") if frame is None else frame


def merged(parts: Sequence[Part], columns: Sequence[Columns]) -> pd.DataFrame | None:
    """The same of parts that have been read.

    Args:
        parts: at least one, by name.
        columns: of each.

    Returns:
        The columns of `episode_frame`, [E]; None where there are copies without predictions, which have to agree too.

    Raises:
        OutcomeError: two disagree about an episode in anything but the seconds.
    """
    together = joined(columns)
    order = np.lexsort((together["seconds"], together["episode"], together["run"]))  # NaN comes last
    rows = {name: values[order] for name, values in together.items()}
    again = _is_copy(rows)
    if again.any():
        if "predictions" not in rows:
            return None
        of_part = np.repeat(np.arange(len(parts)), [len(part["run"]) for part in columns])[order]
        _check_copies(rows, again, [parts[number] for number in of_part[again | np.append(again[1:], False)]])
        rows = {name: values[~again] for name, values in rows.items()}
    return frame_of(rows)


def _is_copy(rows: Columns) -> NDArray[np.bool_]:
    """Whether a row is about the same episode as the one before it, [E]."""
    same = (rows["run"][1:] == rows["run"][:-1]) & (rows["episode"][1:] == rows["episode"][:-1])
    return np.concatenate([[False], same])


def _check_copies(rows: Columns, again: NDArray[np.bool_], parts: Sequence[Part]) -> None:
    """See that copies agree.

    Args:
        rows: sorted by run and episode, [E].
        again: whether a row is a copy of the one before it, [E].
        parts: of each row that is a copy or has one, in their order.

    Raises:
        OutcomeError: two disagree.
    """
    involved = np.flatnonzero(again | np.append(again[1:], False))
    place = {int(row): part.place for row, part in zip(involved, parts, strict=True)}
    for row in np.flatnonzero(again):
        if any(rows[name][row] != rows[name][row - 1] for name in rows if name not in _MAY_DIFFER):
            raise OutcomeError(
                f"run {rows['run'][row]}, episode {rows['episode'][row]} is stored twice and differently, in "
                f"{place[int(row) - 1]} and in {place[int(row)]}. Delete the one that is wrong and run again."
            )
