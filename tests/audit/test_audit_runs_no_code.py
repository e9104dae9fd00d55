"""A stranger's results are data: nothing that they name is executed."""

from __future__ import annotations

import sys

import pytest
from audited_results import detail, rewritten, small_result, verdicts
from safetensors.torch import save_file

from fewshot_bench import BackboneRequest, create_backbone
from fewshot_bench.adaptation import ADAPTATIONS
from fewshot_bench.backbones import BACKBONES
from fewshot_bench.datasets import DATASETS
from fewshot_bench.losses import LOSSES

pytestmark = pytest.mark.slow


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """An importable module that leaves a mark when it is executed."""
    mark = tmp_path / "mark"
    (tmp_path / "trapped.py").write_text(
        f"open({str(mark)!r}, 'w').close()\nfrom fewshot_bench import Centroid as adaptation\n"
        "from fewshot_bench.backbones.networks import literature_backbone as backbone\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for registry in (ADAPTATIONS, BACKBONES, LOSSES, DATASETS):  # what is admitted here is not for other tests
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
        monkeypatch.setattr(registry, "_admitted", {})
    yield mark
    sys.modules.pop("trapped", None)


def recorded(cell, **fields):
    return rewritten(cell, lambda content: content["provenance"]["study"].update(fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"adaptations": ["trapped:adaptation"]},
        {"backbone": "trapped:backbone"},
        {"losses": ["trapped:loss"]},
        {"base_losses": ["trapped:loss"]},
    ],
    ids=str,
)
def test_code_that_a_study_names_is_not_imported(tmp_path, trap, fields):
    cell = recorded(small_result(tmp_path / "results"), **fields)
    assert "imported only with --trust-code" in detail(cell, "same predictions")
    assert not trap.exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"hyper_parameters": {"metric": "trapped:metric"}},
        {"hyper_parameters": {"deep": [{"trapped:metric": 1}]}},
        {"dataset": "trapped:dataset"},
    ],
    ids=str,
)
def test_nor_is_what_only_looks_like_it(tmp_path, trap, fields):
    for trusts_code in (False, True):
        detail(recorded(small_result(tmp_path / "results"), **fields), "same predictions", trusts_code=trusts_code)
        assert not trap.exists()


def test_code_that_the_auditor_trusts_is(tmp_path, trap):
    cell = small_result(tmp_path / "results", adaptations=("trapped:adaptation",))
    trap.unlink()
    sys.modules.pop("trapped")
    ADAPTATIONS._entries.pop("trapped:adaptation")
    assert verdicts(cell)["same predictions"] == "not checked"
    assert not trap.exists()
    assert verdicts(cell, trusts_code=True)["same predictions"] == "pass"
    assert trap.exists()


def test_the_name_of_a_dataset_is_no_code_and_no_path(tmp_path, trap):
    for name in ("trapped:dataset", "../../somewhere", str(tmp_path), "hf:somebody/something"):
        cell = small_result(tmp_path / "results")
        forged = rewritten(cell, lambda content, name=name: content["protocol"].update(dataset=name))
        assert detail(forged, "images").startswith(f"the images of {name} are not here")
        assert not trap.exists()


@pytest.mark.parametrize("fields", [{"evil": 1}, {"way": "many"}, {"device": "cpu", "results": 3}], ids=str)
def test_a_record_with_other_fields_is_refused(tmp_path, fields):
    cell = recorded(small_result(tmp_path), **fields)
    assert detail(cell, "same predictions").startswith("the recorded study is not valid: ")


def test_a_file_of_weights_is_only_that_of_the_auditor(tmp_path):
    network = create_backbone(BackboneRequest("conv4_32", channels=1, native_size=28)).network
    save_file(network.state_dict(), tmp_path / "mine.safetensors")
    cell = small_result(tmp_path / "results", backbone="conv4_32", weights=tmp_path / "mine.safetensors")
    assert "mine.safetensors, is not part of the outcomes" in detail(cell, "same predictions")
    assert verdicts(cell, weights=tmp_path / "mine.safetensors")["same predictions"] == "pass"
    (tmp_path / "other.safetensors").write_bytes((tmp_path / "mine.safetensors").read_bytes())
    other = tmp_path / "other.safetensors"
    assert verdicts(cell, weights=other)["same predictions"] == "pass", "what it holds counts, not its name"
    save_file({name: tensor + 1 for name, tensor in network.state_dict().items()}, other)
    assert verdicts(cell, weights=other)["same predictions"] == "not checked"
    assert "--weights is other.safetensors, which makes another" in detail(cell, "same predictions", weights=other)
    forged = recorded(cell, weights="/etc/passwd")
    assert "passwd, is not part of the outcomes" in detail(forged, "same predictions")
