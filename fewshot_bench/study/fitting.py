"""The protocols of a study, once it is certain that a split can give their episodes."""

from __future__ import annotations

import numpy as np

from fewshot_bench.datasets import ImageSplit
from fewshot_bench.episodes import Protocol, sample_by_shape
from fewshot_bench.study.study import Study


def fitting_protocols(study: Study, images: ImageSplit) -> list[Protocol]:
    """One protocol per number of shots.

    Args:
        study: what is asked for.
        images: of its split.

    Raises:
        EpisodeError: the split has too few classes, images or episodes; the message names the classes.
    """
    for protocol in study.protocols():
        sample_by_shape(images, protocol, numbers=np.arange(0))
    return study.protocols(images.class_sizes)
