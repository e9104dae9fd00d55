"""The benchmark of measures compares equal numbers."""

from types import ModuleType

import pytest
from simulations import script

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def embeddings() -> ModuleType:
    return script("embeddings")


@pytest.mark.parametrize("name", ["pairs", "spectrum", "classes"])
def test_other_libraries_have_the_number_that_ours_has(embeddings, name):
    for library in ("sklearn", "pytorch_metric_learning"):
        pytest.importorskip(library)
    split = embeddings.made_up(6, 12)
    ours, *_, theirs = (way.run(split) for way in embeddings.contenders()[name])
    assert ours == pytest.approx(theirs, abs=5e-4)


def test_coverage_prints_every_measure(embeddings, capsys):
    embeddings.print_coverage(2)
    printed = capsys.readouterr().out
    assert printed.count("| nc1, raw |") == printed.count("| isotropy_score, cl2 |") == 2
