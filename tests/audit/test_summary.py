"""An audit ends with what could not be checked and what would check it; what is not confirmed has not passed."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
from audited_results import another_prediction, rewritten, small_result, stored, with_part
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file

from fewshot_bench import BackboneRequest, Study, create_backbone, run_study
from fewshot_bench._io.locations import cache_folder
from fewshot_bench.audit import (
    AuditOptions,
    CellAudit,
    Finding,
    ReproductionOptions,
    audit_cells,
    print_conclusion,
    reproduce_cell,
)
from fewshot_bench.audit.finding import Audit

pytestmark = pytest.mark.slow


def audited(*folders, **options):
    return audit_cells(folders, AuditOptions(**{"device": "cpu", "episodes": 4, **options}))


def concluded(audit):
    out = io.StringIO()
    print_conclusion(audit, Console(file=out, width=80))
    assert max(map(len, out.getvalue().splitlines())) <= 80
    return " ".join(out.getvalue().split())


def with_weights(folder):
    network = create_backbone(BackboneRequest("conv4_32", channels=1, native_size=28)).network
    save_file(network.state_dict(), folder / "mine.safetensors")
    return small_result(folder / "results", backbone="conv4_32", weights=folder / "mine.safetensors")


def of_hub(content):
    content["method"]["backbone"] = content["provenance"]["study"]["backbone"] = "timm:resnet18"


CAUSES = {
    "weights": (with_weights, {}, "--weights FILE"),
    "images": (
        lambda folder: changed(folder, lambda c: c["protocol"].update(dataset="elsewhere")),
        {},
        "--dataset PATH",
    ),
    "code": (
        lambda folder: changed(folder, lambda c: c["provenance"]["study"].update(losses=["mine:loss"])),
        {},
        "--trust-code",
    ),
    "hub": (lambda folder: changed(folder, of_hub), {}, "--download"),
    "episodes": (small_result, {"episodes": 0}, "--episodes N"),
    "other weights": (
        lambda folder: changed(folder, lambda c: c["method"].update(weights="00" * 32)),
        {},
        "fewshot-bench reproduce",
    ),
}


def changed(folder, change):
    return rewritten(small_result(folder), change)


@pytest.mark.parametrize("cause", CAUSES)
def test_what_keeps_a_method_from_being_run_again_is_told_with_what_would_let_it(tmp_path, cause):
    make, options, option = CAUSES[cause]
    done = audited(make(tmp_path), **options)
    assert done.outcome == done.cells[0].outcome == "not confirmed"
    first = done.unchecked()[0]
    assert option in first.options
    assert "same predictions" in first.checks
    told = concluded(done)
    assert told.startswith("could not be checked")
    assert f"to check it: {' or '.join(first.options)}" in told
    assert "no check failed" not in told
    assert "1 cell: 0 passed, 1 not confirmed, 0 failed" in told


def test_a_record_without_a_study_is_not_confirmed_and_no_option_is_made_up(tmp_path):
    done = audited(changed(tmp_path, lambda content: content.pop("provenance")))
    (lacking,) = [one for one in done.unchecked() if "same predictions" in one.checks]
    assert (done.outcome, lacking.options) == ("not confirmed", ())
    assert "the outcomes do not record the study" in concluded(done)


def test_one_cell_that_is_not_confirmed_is_enough(tmp_path):
    good = small_result(tmp_path / "good")
    other = changed(tmp_path / "other", lambda content: content["protocol"].update(dataset="elsewhere"))
    done = audited(good, other)
    assert [cell.outcome for cell in done.cells] == ["passed", "not confirmed"]
    assert done.outcome == "not confirmed"
    assert "of 1 of 2 cells: the images of elsewhere" in concluded(done)
    assert "2 cells: 1 passed, 1 not confirmed, 0 failed" in concluded(done)


def test_a_failure_counts_for_more_and_what_was_not_checked_is_still_told(tmp_path):
    failed = small_result(tmp_path / "failed")
    with_part(failed, 0, another_prediction)
    other = changed(tmp_path / "other", lambda content: content["protocol"].update(dataset="elsewhere"))
    done = audited(failed, other, episodes=24)
    assert done.outcome == "failed"
    assert concluded(done).startswith("could not be checked")
    assert concluded(audited(small_result(tmp_path / "good"))).endswith("1 cell: no check failed, 0 could not be made")


def test_the_conclusion_tells_the_sample_and_how_to_draw_it_again(tmp_path):
    told = concluded(audited(small_result(tmp_path), seed=123, episodes=8))
    assert "8 of 24 episodes of each cell; if 29.2% of them were forged, this would show with 97%" in told
    assert "--seed 123 draws the same again" in told
    assert "all 24 episodes of each cell" in concluded(audited(small_result(tmp_path), episodes=100))


def test_the_record_of_an_audit_has_seed_outcome_and_what_was_not_checked(tmp_path):
    record = audited(small_result(tmp_path), seed=9, episodes=0).as_dict()
    assert (record["seed"], record["outcome"], record["cells"][0]["outcome"]) == (9, "not confirmed", "not confirmed")
    assert record["not_checked"][0]["options"] == ["--episodes N"]
    assert record["cells"][0]["checked_episodes"] == 0


def test_nothing_at_all_is_not_confirmed():
    assert Audit(0, ()).outcome == "not confirmed"
    assert CellAudit("k", "", "", (Finding("counts", "pass", ""),)).outcome == "not confirmed"


@pytest.fixture
def birds(tmp_path, monkeypatch):
    """A folder of the author's own images, in which a study was run."""
    generator = np.random.default_rng(0)
    for label in range(6):
        (tmp_path / "mine" / "birds" / f"kind{label}").mkdir(parents=True)
        for number in range(8):
            pixels = np.clip(generator.normal(40 * label, 20, size=(32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "mine" / "birds" / f"kind{label}" / f"{number}.png")
    monkeypatch.chdir(tmp_path / "mine")
    return tmp_path / "mine"


def own_result(folder, typed, **fields):
    study = {"dataset": typed, "backbone": "conv4_32", "base_losses": (), "shots": (1,), "episodes": 6, "runs": 1}
    study |= {"query": 3, "device": "cpu", "results": folder / "results", **fields}
    (cell,) = run_study(Study(**study)).cells
    return folder / "results" / "outcomes" / cell.key


@pytest.mark.parametrize("typed", ["./birds", "birds/", "{folder}/birds"])
@pytest.mark.parametrize("where", ["here", "elsewhere, from the results", "elsewhere, by the cache"])
def test_own_images_are_found_where_the_record_says(birds, tmp_path, monkeypatch, typed, where):
    cell = own_result(birds, typed.format(folder=birds))
    assert stored(cell).protocol.dataset == "birds"
    if where != "elsewhere, by the cache":
        shutil.rmtree(cache_folder() / "own-images")
    if where != "here":
        (tmp_path / "there").mkdir()
        monkeypatch.chdir(tmp_path / "there")
    done = audited(cell)
    assert done.outcome == "passed", done.unchecked()
    assert reproduce_cell(cell, ReproductionOptions(device="cpu")).is_equal


def test_a_division_of_own_images_is_made_again_also_without_the_weights(birds):
    cell = own_result(birds, "./birds", fractions=(0.0, 0.1, 0.9), seed=3)
    shutil.rmtree(cache_folder() / "own-images")
    assert audited(cell).outcome == "passed"


def test_own_images_that_have_changed_are_not_taken(birds):
    cell = own_result(birds, "./birds")
    shutil.rmtree(cache_folder() / "own-images")
    (birds / "birds" / "kind0" / "0.png").write_bytes((birds / "birds" / "kind1" / "0.png").read_bytes())
    done = audited(cell)
    assert done.cells[0].failures == ["images"]


def test_own_images_that_are_gone_are_asked_for_by_the_place_in_the_record(birds):
    cell = own_result(birds, "./birds")
    shutil.rmtree(cache_folder() / "own-images")
    (birds / "birds").rename(birds / "moved")
    told = concluded(audited(cell))
    assert "the images of birds (./birds in the record) are not here; say where they lie with --dataset PATH" in told
    assert audited(cell, dataset=birds / "moved").cells[0].failures == []


@pytest.mark.parametrize(
    "named",
    ["../secret", "birds/../../secret", "{folder}/secret", "hf:secret", "secret:thing", "link", "~/secret", "", 3],
)
def test_a_record_leads_to_nothing_above_or_beside_the_folder(birds, tmp_path, monkeypatch, named):
    cell = own_result(birds, "./birds")
    shutil.rmtree(cache_folder() / "own-images")
    (birds / "birds").rename(tmp_path / "secret")
    (birds / "link").symlink_to(tmp_path / "secret")
    opened = []
    monkeypatch.setattr("fewshot_bench.audit.images.known_dataset", lambda place, **_: opened.append(place))
    place = named.format(folder=tmp_path) if isinstance(named, str) else named
    forged = rewritten(cell, lambda content: content["provenance"].update(images=place))
    assert audited(forged).outcome == "not confirmed"
    assert opened == []
