"""What a classifier says of images: scores of every class, as a table or as records."""

from __future__ import annotations

import csv
import html
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fewshot_bench._io.text import guarded
from fewshot_bench.datasets.images import SkippedImage

PROBABILITY = "probability"
_DECIMALS = 6
_SHOWN = 10


@dataclass(frozen=True, repr=False, eq=False)
class Predictions:
    """Scores of images.

    Attributes:
        images: their names, [M].
        class_names: [N].
        scores: higher is more likely, float64 [M, N].
        kind: what the scores are: "probability" where the method defines one, otherwise in a few words.
        refused: images that could not be read.

    >>> found = Predictions(("new.png",), ("cat", "dog"), np.array([[0.25, 0.75]]), "probability")
    >>> found.labels
    ['dog']
    >>> print(found.to_csv(top=2), end="")
    image,class,probability,class_2,probability_2
    new.png,dog,0.750000,cat,0.250000
    """

    images: tuple[str, ...]
    class_names: tuple[str, ...]
    scores: NDArray[np.float64]
    kind: str
    refused: tuple[SkippedImage, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        refused = f", {len(self.refused):,} refused" if self.refused else ""
        return f"<Predictions: {len(self):,} images, {len(self.class_names):,} classes, {self.kind}{refused}>"

    def _repr_html_(self) -> str:
        """A table of the first images, for notebooks."""
        table = self.to_frame().head(_SHOWN).to_html(index=False, float_format=lambda value: f"{value:.4g}")
        return f"<p>{html.escape(repr(self)[1:-1])}</p>{table}"

    @property
    def labels(self) -> list[str]:
        """The most likely class of every image."""
        return [self.class_names[number] for number in self._ranked(1)[:, 0]]

    @property
    def column(self) -> str:
        """The head of a column of scores: "probability" or "score"."""
        return PROBABILITY if self.kind == PROBABILITY else "score"

    def _ranked(self, top: int) -> NDArray[np.int64]:
        """The most likely classes of every image, [M, top]; of equal ones the first."""
        return np.argsort(-self.scores, axis=1, kind="stable")[:, :top]

    def to_frame(self, top: int = 1) -> pd.DataFrame:
        """A row per image: `image`, `class`, `score` or `probability`, then `class_2`, `score_2`, ... of the next ones.

        Args:
            top: how many classes of each image; all of them where there are fewer.
        """
        ranked = self._ranked(top)
        columns: dict[str, Any] = {"image": list(self.images)}
        for rank in range(ranked.shape[1]):
            suffix = f"_{rank + 1}" if rank else ""
            columns[f"class{suffix}"] = [self.class_names[number] for number in ranked[:, rank]]
            columns[f"{self.column}{suffix}"] = self.scores[np.arange(len(self)), ranked[:, rank]]
        return pd.DataFrame(columns)

    def to_csv(self, top: int = 1) -> str:
        """The table as CSV; text that a spreadsheet would run as a formula gets an apostrophe in front."""
        frame, text = self.to_frame(top), io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(frame.columns)
        for row in frame.itertuples(index=False):
            writer.writerow([guarded(value) if isinstance(value, str) else f"{value:.{_DECIMALS}f}" for value in row])
        return text.getvalue()

    def record(self, top: int = 1) -> dict[str, Any]:
        """Everything as plain data, for JSON."""
        ranked = self._ranked(top)
        return {
            "scores": self.kind,
            "images": [
                {"image": name, "classes": [self._scored(row, number) for number in numbers]}
                for row, (name, numbers) in enumerate(zip(self.images, ranked.tolist(), strict=True))
            ],
            "refused": [{"image": image.name, "reason": image.reason} for image in self.refused],
        }

    def _scored(self, row: int, number: int) -> dict[str, Any]:
        return {"class": self.class_names[number], self.column: float(self.scores[row, number])}
