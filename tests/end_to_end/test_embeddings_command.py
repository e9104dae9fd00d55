"""`fewshot-bench embeddings` as a user types it: networks, tables, cards, pictures, and the link from the page."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fewshot_bench.cli.main import exit_code
from fewshot_bench.datasets import open_dataset
from fewshot_bench.datasets.catalogue import BENCHMARKS, may_be_shown, stand_in_dataset
from fewshot_bench.embeddings import projections
from fewshot_bench.report.embeddings.cards import stored_cards
from fewshot_bench.study import embeddings
from fewshot_bench.study.embeddings import shown_bins, thumbnails

pytestmark = pytest.mark.slow
QUICK = ["--layout", "pca", "--no-intervals"]


@pytest.fixture
def own(tmp_path):
    """Three classes of five images of one's own, 16 x 16."""
    generator = np.random.default_rng(0)
    for label, name in enumerate(("cat", "dog", "=eel")):
        folder = tmp_path / "own" / "novel" / name
        folder.mkdir(parents=True)
        for number in range(5):
            pixels = np.clip(generator.normal(60 + 60 * label, 40, size=(16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "own"


def measured(own, *options, networks=("conv4_32", "conv4_64")):
    results = own.parent / "results"
    command = ["embeddings", *networks, "--dataset", str(own), "--results", str(results), *options]
    return exit_code(command), results


def test_two_networks_are_measured_compared_drawn_and_stored(own, capsys):
    code, results = measured(own, *QUICK, "--classes", "cat,dog", "--image-size", "16")
    assert code == 0
    out = capsys.readouterr().out
    assert "15 images of 3 classes" in out
    assert "isotropy score, raw" in out
    assert "linear CKA" in out
    assert "on the same images" in out
    cards, (pair,) = stored_cards(results)
    assert [card.network.backbone for card in cards] == ["conv4_32", "conv4_64"]
    assert (pair.a, pair.b) == (cards[0].network, cards[1].network)
    values = [{(m.name, m.variant): m.value for m in measures} for measures in (cards[0].measures, cards[1].measures)]
    key = ("isotropy_score", "raw")
    difference = {(m.name, m.variant): m.value for m in pair.measures}
    assert difference[key] == pytest.approx(values[1][key] - values[0][key])
    similarities, two = cards[0].similarities, cards[0].two_classes
    assert (sum(similarities.same), sum(similarities.different)) == (3 * 10, 3 * 25)
    assert (sum(two.same), sum(two.different), two.classes) == (20, 25, ("cat", "dog"))
    assert cards[0].layout.classes == ("=eel", "cat", "dog")
    assert cards[0].thumbnails.count == 15
    names = {path.suffix for path in (results / "embeddings").iterdir()}
    assert names == {".json", ".csv", ".png", ".svg"}
    rows = list(csv.DictReader(io.StringIO((results / "embeddings" / "measures.csv").read_text())))
    assert {row["weights"] for row in rows} == {card.network.weights for card in cards}


def test_json_has_intervals_and_no_thumbnails_are_kept_if_they_are_not_wanted(own, capsys):
    code, results = measured(own, "--layout", "none", "--no-thumbnails", "--json")
    assert code == 0
    record = json.loads(capsys.readouterr().out)
    first = record["networks"][0]["measures"][0]
    assert first["low"] <= first["value"] <= first["high"]
    assert record["differences"][0]["a"]["name"] == record["networks"][0]["name"]
    assert all(card.thumbnails is None and card.layout is None for card in stored_cards(results)[0])


def test_the_same_command_gives_the_same_cards(own):
    contents = []
    for _ in range(2):
        _, results = measured(own, *QUICK)
        contents.append({path.name: path.read_bytes() for path in (results / "embeddings").iterdir()})
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--classes", "cat,dgo"], "novel called 'dgo'. Did you mean dog"),
        (["--classes", "cat"], "--classes takes two different classes"),
        (["--classes", "cat,cat"], "--classes takes two different classes"),
        (["--weights", "a.safetensors"], "--weights gives the weights of one backbone"),
        (["--split", "base"], "base split"),
        (["--device", "tpu"], "there is no device 'tpu'"),
    ],
)
def test_invalid_options_are_refused_in_one_line_with_code_2(own, capsys, options, message):
    code, results = measured(own, *QUICK, *options)
    assert code == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert error.splitlines()[-1].startswith("error: ")
    assert not (results / "embeddings").exists()


def test_a_missing_package_is_named_before_anything_is_embedded(own, capsys, monkeypatch):
    monkeypatch.setattr(projections, "find_spec", lambda module: None)
    monkeypatch.setattr(embeddings, "embed", lambda *arguments, **settings: pytest.fail("it embedded"))
    assert measured(own, "--layout", "umap")[0] == 2
    assert "fewshot-bench[projections]" in capsys.readouterr().err


def test_one_class_is_refused_in_one_line(own, capsys):
    for name in ("dog", "=eel"):
        for path in (own / "novel" / name).iterdir():
            path.unlink()
        (own / "novel" / name).rmdir()
    assert measured(own, *QUICK)[0] == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("error: ")


def test_a_method_on_the_page_links_to_the_card_of_its_network(tmp_path, capsys):
    """The network of a checkpoint is embedded, run, and found again by the digest of its weights."""
    training = ["--dataset", "glyphs", "--backbone", "conv4_32", "--epochs", "1", "--validate-every", "0"]
    assert exit_code(["train", "--name", "mine", *training]) == 0
    results = ["--results", str(tmp_path / "results")]
    small = ["--dataset", "glyphs", "--shots", "1", "--runs", "1", "--episodes", "4"]
    assert exit_code(["run", "--checkpoint", "mine", "--adapt", "centroid", *small, *results]) == 0
    assert exit_code(["embeddings", "mine", "conv4_32", "--dataset", "glyphs", *QUICK, *results]) == 0
    assert exit_code(["report", *results]) == 0
    page = (tmp_path / "results" / "report.html").read_text(encoding="utf-8")
    cards, _ = stored_cards(tmp_path / "results")
    links = {card.network.name: page.count(f'#embedding-{card.network.key}\\\\\\"') for card in cards}
    assert links == {"mine": 1, "conv4_32@weights=random 0": 0}
    assert exit_code(["embeddings", "--against-accuracy", *results]) == 2
    assert "1 networks have both" in capsys.readouterr().err


def test_images_may_be_shown_if_they_are_built_in_or_ones_own(own):
    assert may_be_shown(open_dataset("glyphs"))
    assert may_be_shown(open_dataset(str(own)))
    assert not any(may_be_shown(replace(stand_in_dataset(name), place="./a copy")) for name in BENCHMARKS)
    assert not may_be_shown(replace(stand_in_dataset("cifar-fs"), name="theirs", place="hf:theirs"))
    assert not may_be_shown(replace(stand_in_dataset("cifar-fs"), name="module:callable"))


def test_thumbnails_are_the_images_in_the_order_of_the_layout(own):
    import base64

    split = open_dataset(str(own)).novel
    found = thumbnails(split, [7, 3])
    with Image.open(io.BytesIO(base64.b64decode(found.png))) as sheet:
        pixels = np.asarray(sheet)
    side = found.side
    np.testing.assert_array_equal(
        np.asarray(Image.fromarray(split.images[3]).resize((side, side))).shape, (side, side, 3)
    )
    assert pixels.shape == (side, 2 * side, 3)
    assert abs(float(pixels[:, side:].mean()) - float(split.images[3].mean())) < 3


@pytest.mark.parametrize(("first", "last"), [(0, 10_000), (9_800, 10_000), (5_000, 5_003), (9_790, 9_999), (0, 250)])
def test_shown_bins_keep_every_pair(first, last):
    edges, counts = np.linspace(-1, 1, 10_001), np.zeros(10_000, np.int64)
    counts[first:last] = np.arange(1, last - first + 1)
    found, same, different = shown_bins(edges, counts, 2 * counts)
    assert (same.sum(), different.sum()) == (counts.sum(), 2 * counts.sum())
    assert len(found) == len(same) + 1
    assert (np.diff(found) > 0).all()
    assert min(100, last - first) <= len(same) <= 201
