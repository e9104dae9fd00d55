"""What holds for every loss, whatever it compares."""

from __future__ import annotations

import pytest

from fewshot_bench.losses import LOSSES
from fewshot_bench.testing import LOSS_PROPERTIES, check_loss


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSS_PROPERTIES)
@pytest.mark.parametrize("loss", LOSSES.names())
def test_every_loss_has_the_property(loss: str, name: str) -> None:
    check_loss(loss, name)
