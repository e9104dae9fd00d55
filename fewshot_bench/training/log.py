"""The history of a training for people: a CSV file, and TensorBoard."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

from fewshot_bench.atomic import write_atomically
from fewshot_bench.errors import StudyError
from fewshot_bench.training.course import History

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_COLUMNS = ("epoch", "step", "loss", "accuracy", "images_per_second", "learning_rate")


def write_history(path: Path, history: History) -> None:
    """Write a row per epoch, whole or not at all, so that the file is right after any stop.

    Args:
        path: a CSV file; columns are epoch, step, loss, accuracy, images_per_second, learning_rate, then the
            validation accuracies, empty where the epoch was not looked at, and seconds.
        history: of a training.
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
        """Find out whether there is a TensorBoard before anything is trained.

        Args:
            folder: of this training alone.

        Raises:
            StudyError: the package tensorboard is not installed.
        """
        try:
            import torch.utils.tensorboard  # noqa: F401  # whether it can be
        except ImportError as error:
            raise StudyError(
                "--tensorboard needs the package tensorboard. Run: pip install 'fewshot-bench[tensorboard]'"
            ) from error
        self.folder = folder
        self._writer: SummaryWriter | None = None

    def write(self, history: History) -> None:
        """Write the newest epoch; later ones, from before a stop, are forgotten.

        Args:
            history: of the training so far.
        """
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
