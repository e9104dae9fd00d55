"""The history of a training, written to a CSV file and for TensorBoard."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

from fewshot_bench._io.storage import write_atomically
from fewshot_bench.errors import StudyError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

History = list[dict[str, float]]
"""A row per epoch; see `TrainingResult`."""

_COLUMNS = ("epoch", "step", "loss", "accuracy", "images_per_second", "learning_rate")


def write_history(path: Path, history: History) -> None:
    """Write a row per epoch of a history to a CSV file, atomically.

    Columns are epoch, step, loss, accuracy, images_per_second, learning_rate, the validation accuracies, empty where
    the epoch was not validated, and seconds.
    """
    known = dict.fromkeys(name for row in history for name in row)
    measured = [name for name in known if name not in (*_COLUMNS, "seconds")]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*_COLUMNS, *measured, "seconds"], lineterminator="\n")
    writer.writeheader()
    for epoch, row in enumerate(history, 1):
        rounded = {name: f"{value:.6g}" for name, value in row.items()}
        writer.writerow({**rounded, "epoch": epoch, "step": int(row["step"])})
    write_atomically(path, text.getvalue().encode())


class TensorBoardLog:
    """Scalars of every epoch, in a folder that `tensorboard --logdir` shows."""

    def __init__(self, folder: Path) -> None:
        """Check that TensorBoard is installed, before anything is trained.

        Args:
            folder: of this training alone.

        Raises:
            StudyError: the package tensorboard is not installed.
        """
        try:
            import torch.utils.tensorboard  # noqa: F401  # to see whether it can be imported
        except ImportError as error:
            raise StudyError(
                "--tensorboard needs the package tensorboard. Run: pip install 'fewshot-bench[tensorboard]'"
            ) from error
        self.folder = folder
        self._writer: SummaryWriter | None = None

    def write(self, history: History) -> None:
        """Write the last epoch of a history; later ones, written before a stop, are dropped."""
        from torch.utils.tensorboard import SummaryWriter

        epoch = len(history)
        if self._writer is None:
            self._writer = SummaryWriter(str(self.folder), purge_step=epoch)
        for name, value in history[-1].items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()
