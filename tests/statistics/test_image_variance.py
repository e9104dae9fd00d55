"""Fixed classes with few episodes: noise hides what drawing images adds, and the interval allows for that."""

from __future__ import annotations

import numpy as np
import pytest

from fewshot_bench.statistics import data_intervals, image_overlap

pytestmark = pytest.mark.slow

REPLICATES, EPISODES, CLASSES, IMAGES, USED = 600, 400, 6, 30, 16


def _means_and_intervals(image_sd: float):
    """Means of many draws of images whose effects have a standard deviation, under noise of 1 on each episode."""
    generator = np.random.default_rng(0)
    of_classes = generator.random((EPISODES, CLASSES, IMAGES)).argsort(axis=2)[:, :, :USED]
    images = of_classes + IMAGES * np.arange(CLASSES)[:, None]
    effects = image_sd * generator.standard_normal((REPLICATES, CLASSES * IMAGES))
    values = effects[:, images].mean(axis=(2, 3)) + generator.standard_normal((REPLICATES, EPISODES))
    return data_intervals(values, image_overlap(images))


def test_images_that_noise_hides_are_covered():
    for image_sd in (0.7, 1.2, 2.0):
        found = _means_and_intervals(image_sd)
        task_variance, image_variance = 1 / EPISODES, image_sd**2 / (CLASSES * IMAGES)
        assert image_variance > task_variance / 3  # an interval over episodes alone would be too short
        low, high = found.ends()
        assert ((low < 0) & (high > 0)).mean() > 0.94


def test_an_image_variance_below_its_own_error_is_not_taken_for_nothing():
    found = _means_and_intervals(image_sd=0.3)
    assert (found.sample_variances > 0).all()
    assert np.unique(found.freedom).min() >= 4
