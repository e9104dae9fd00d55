"""The protocols of a study, once it is certain that a split can give their episodes."""

from __future__ import annotations

import numpy as np

from fewshot_bench.datasets import Dataset
from fewshot_bench.datasets.recipe import left_out_lines
from fewshot_bench.episodes import Protocol, sample_by_shape
from fewshot_bench.errors import EpisodeError
from fewshot_bench.study.study import Study

_MOST_LINES = 3


def fitting_protocols(study: Study, dataset: Dataset) -> list[Protocol]:
    """One protocol per number of shots.

    Args:
        study: what is asked for.
        dataset: of whose split.

    Raises:
        EpisodeError: the split has too few classes, images or episodes; the message names the classes, and what was
            left out of the user's own images, which may be why.
    """
    images = dataset.split(study.split)
    try:
        for protocol in study.protocols():
            sample_by_shape(images, protocol, numbers=np.arange(0))
        return study.protocols(images.class_sizes)
    except EpisodeError as error:
        lines = left_out_lines(dataset.recipe)
        if not lines:
            raise
        raise EpisodeError(f"{error} What was left out: {'; '.join(lines[:_MOST_LINES])}.") from error
