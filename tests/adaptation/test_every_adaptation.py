"""What holds for every adaptation: the order and the grouping of things never matter."""

from __future__ import annotations

import pytest
from adaptations_to_test import ADAPTATIONS

from fewshot_bench.adaptation import EmbeddingAdaptation
from fewshot_bench.testing import ADAPTATION_PROPERTIES, check_adaptation

SLOW = ("settings", "shapes", "finite", "determinism", "support_order", "class_order", "episodes", "chunks", "device")


@pytest.mark.parametrize("adaptation", ADAPTATIONS.values(), ids=ADAPTATIONS)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in ADAPTATION_PROPERTIES]
)
def test_every_adaptation_has_the_property(adaptation: EmbeddingAdaptation, name: str) -> None:
    check_adaptation(adaptation, name)
