from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "spread.py"


@pytest.fixture(scope="module")
def spread():
    specification = importlib.util.spec_from_file_location("spread_benchmark", PATH)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("likeness", [0.05, 0.3])
def test_the_intraclass_correlation_is_found_from_predictions_and_from_the_spread(spread, likeness):
    generator, size = np.random.default_rng(0), 1 / likeness - 1
    chances = generator.beta(0.6 * size, 0.4 * size, (8000, 5, 1))
    correct = (generator.random((8000, 5, 15)) < chances).astype(float)
    sd = correct.mean(axis=(1, 2)).std(ddof=1)
    assert spread.intraclass_correlation(correct) == pytest.approx(likeness, abs=0.01)
    assert spread.likeness(sd, correct.mean(), 5, 15) == pytest.approx(likeness, abs=0.02)
