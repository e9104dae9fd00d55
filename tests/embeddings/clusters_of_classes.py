"""Made-up embeddings of classes."""

import numpy as np


def clusters(classes=5, images=8, size=6, *, seed=0, spread=1.0, shift=0.5):
    """Normal clusters around normal centres, float32 [I, D], and the class of each row, [I]."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), images)
    rows = shift + generator.normal(size=(classes, size))[labels] + spread * generator.normal(size=(len(labels), size))
    return rows.astype(np.float32), labels


def by_name(measured):
    return {(row.name, row.variant): row.value for row in measured}
