"""Embedding cards: what is stored is read back, a stranger's file is data, and no card meets another network."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from embedding_cards import PREPROCESSING, card, measure, network, pair, sheet
from rich.console import Console
from stored_cells import cell, fill

from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.report.embeddings.accuracy import (
    correlate_with_accuracy,
    correlations_record,
    print_correlations,
    store_correlations,
)
from fewshot_bench.report.embeddings.cards import card_of_cell, store_cards, stored_cards
from fewshot_bench.report.embeddings.output import cards_record, measure_text, print_cards


def of_network(name="conv", seed=0, **changes):
    """A cell whose method embeds with the network of `card(name)`."""
    made = cell(f"{name}/centroid", weights=f"weights of {name}", **changes)
    settings = {"preprocessing": PREPROCESSING, "base": {"loss": name.partition(" ")[0], "seed": seed}}
    return replace(made, method=replace(made.method, hyper_parameters=settings))


def rows(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


class TestStored:
    def test_cards_and_pairs_are_read_back_as_they_were(self, tmp_path):
        cards = [card("conv", thumbnails=sheet()), card("deep", 0.65)]
        store_cards(tmp_path, cards, [pair()])
        assert stored_cards(tmp_path) == (cards, [pair()])

    def test_the_same_network_is_replaced_and_others_stay(self, tmp_path):
        store_cards(tmp_path, [card("conv", 0.1), card("deep")], [])
        store_cards(tmp_path, [card("conv", 0.3)], [])
        assert [found.isotropy for found in stored_cards(tmp_path)[0]] == [0.3, 0.4]

    def test_both_tables_name_weights_images_and_preprocessing(self, tmp_path):
        store_cards(tmp_path, [card("=conv()"), card("deep")], [pair()])
        measures = rows(tmp_path / "embeddings" / "measures.csv")
        assert [row["network"] for row in measures[:1]] == ["'=conv()"]
        assert {row["weights"] for row in measures} == {"weights of =conv()", "weights of deep"}
        assert json.loads(measures[0]["preprocessing"]) == PREPROCESSING
        assert measures[0]["split_fingerprint"] == "cd" * 32
        (difference,) = rows(tmp_path / "embeddings" / "differences.csv")
        assert (difference["network_a"], difference["network_b"]) == ("conv", "deep")
        assert [float(difference[name]) for name in ("value", "ci95_low", "ci95_high")] == [0.25, 0.2, 0.3]
        assert difference["weights_b"] == "weights of deep"

    def test_no_folder_holds_no_cards(self, tmp_path):
        assert stored_cards(tmp_path) == ([], [])


class TestStrangers:
    @pytest.mark.parametrize(
        ("change", "finding"),
        [
            ({"format": 2}, "format should be 1"),
            ({"images": "many"}, "images should be a whole number"),
            ({"extra": 1}, "extra"),
            ({"measures": [{"name": "a", "title": "a", "value": "1"}]}, "value"),
            ({"similarities": {"edges": [0, 1], "same": [1, 2], "different": [1]}}, "similarities"),
            ({"similarities": {"edges": [1, 0], "same": [1], "different": [1]}}, "edges should rise"),
            ({"similarities": {"edges": [0, 1], "same": [-1], "different": [1]}}, "same"),
            ({"layout": {"method": "tsne", "seed": 0, "classes": [], "labels": [0], "images": [0], "x": [0], "y": [0]}},
             "labels should be numbers of classes"),
            ({"thumbnails": {"png": "PHN2Zz4=", "side": 3, "columns": 2, "count": 4}}, "a PNG of the tiles"),
            ({"thumbnails": {"png": "no base64!", "side": 3, "columns": 2, "count": 4}}, "png should be base64"),
        ],
    )  # fmt: skip
    def test_a_card_that_is_none_is_refused_by_name(self, tmp_path, change, finding):
        store_cards(tmp_path, [card()], [])
        (path,) = (tmp_path / "embeddings").glob("card-*.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        with pytest.raises(OutcomeError, match=finding) as error:
            stored_cards(tmp_path)
        assert path.name in str(error.value)

    def test_infinity_and_what_is_no_json_are_refused(self, tmp_path):
        store_cards(tmp_path, [card()], [])
        (path,) = (tmp_path / "embeddings").glob("card-*.json")
        text = path.read_text()
        for forged in (text.replace("12.5", "Infinity"), text[:-9], "[]", "[" * 100_000, " " * 9_000_000):
            path.write_text(forged)
            with pytest.raises(OutcomeError, match=rf"{path.name} is not an embedding card"):
                stored_cards(tmp_path)

    def test_a_link_is_not_followed(self, tmp_path):
        store_cards(tmp_path / "real", [card()], [])
        folder = tmp_path / "results" / "embeddings"
        folder.mkdir(parents=True)
        (real,) = (tmp_path / "real" / "embeddings").glob("card-*.json")
        (folder / real.name).symlink_to(real)
        with pytest.raises(OutcomeError):
            stored_cards(tmp_path / "results")


class TestLink:
    def test_a_cell_finds_the_card_of_its_network_and_images(self):
        cards = [card("deep"), card("conv")]
        assert card_of_cell(cards, of_network()) is cards[1]

    @pytest.mark.parametrize(
        "other",
        [
            of_network("wide"),
            of_network(dataset_fingerprint="ef" * 32),
            of_network(split="validation"),
            cell("conv/centroid", weights="weights of conv"),
            replace(of_network(), method=replace(of_network().method, code={"backbone": {"source": "x"}})),
        ],
    )
    def test_other_weights_images_preprocessing_or_code_never_do(self, other):
        assert card_of_cell([card("conv")], other) is None

    def test_every_part_of_the_identity_changes_the_key_and_names_do_not(self):
        key = network().key
        for name in ("weights", "dataset_fingerprint", "split", "split_fingerprint"):
            assert network(**{name: "other"}).key != key
        assert network(preprocessing={**PREPROCESSING, "image_size": 9}).key != key
        assert network("other", weights="weights of conv").key == key


class TestOutput:
    def test_networks_stand_side_by_side_with_intervals_and_differences(self):
        console = Console(width=100, record=True, file=io.StringIO())
        print_cards([card("conv"), card("deep", 0.65)], [pair()], console)
        text = console.export_text()
        assert "0.400 [0.300, 0.500]" in text
        assert "deep minus conv, on the same images" in text
        assert "0.250 [0.200, 0.300]" in text
        assert "published" not in text

    def test_published_isotropy_stands_beside_its_dataset(self):
        own = card("conv", network=network(dataset="places365"))
        console = Console(width=100, record=True, file=io.StringIO())
        print_cards([own], [], console)
        text = console.export_text()
        assert "BEiT-3 CE + SCHaNe" in text
        assert "0.934" in text
        published = cards_record([own], [])["published"]
        assert [row["isotropy"] for row in published] == [0.3404, 0.9338]
        assert "min / max" in published[0]["note"]

    def test_a_measure_that_does_not_exist_is_a_dash(self):
        assert measure_text(card().measures[2]) == "-"
        assert measure_text(card().measures[1]) == "12.500"
        assert measure_text(measure(0.00002, 0.00001)) == "2.00e-05 [1.00e-05, 3.00e-05]"

    def test_the_record_is_json_with_the_identity_of_each_network(self):
        record = json.loads(json.dumps(cards_record([card("conv"), card("deep")], [pair()])))
        assert record["networks"][0]["weights"] == "weights of conv"
        assert record["differences"][0]["b"]["weights"] == "weights of deep"


class TestAgainstAccuracy:
    @pytest.fixture
    def results(self, tmp_path):
        """Five networks, two of which differ in their seed only; the more isotropic, the more accurate."""
        store, names = OutcomeStore(tmp_path / "outcomes"), ("a 0", "a 1", "b", "c", "d")
        for number, name in enumerate(names):
            fill(store, of_network(name, number), np.full((1, 4), 30 + 5 * number))
        store_cards(tmp_path, [card(name, 0.1 * number + 0.2) for number, name in enumerate(names)], [])
        return tmp_path

    def test_a_measure_that_rises_with_accuracy_has_correlation_one(self, results):
        found = correlate_with_accuracy(results, OutcomeStore(results / "outcomes"))
        first = found.found[0]
        assert (first.measure, first.over_networks.rho) == ("isotropy score, raw", 1)
        assert (first.over_networks.pairs, first.over_trainings.pairs) == (5, 4)
        assert [point.accuracy for point in found.points] == pytest.approx([40, 46.6667, 53.3333, 60, 66.6667])

    def test_weights_of_unknown_training_stand_alone_and_random_ones_are_of_one_kind(self, results):
        store, names = OutcomeStore(results / "outcomes"), ("a 0", "b", "c", "d")
        for name in names:
            made = of_network(name, shot=5)
            settings = {"preprocessing": PREPROCESSING, "base": {}}
            fill(store, replace(made, method=replace(made.method, hyper_parameters=settings)), np.full((1, 4), 30))
        kinds = []
        for pretraining in ("unknown", ""):
            store_cards(results, [card(name, network=network(name, pretraining=pretraining)) for name in names], [])
            found = correlate_with_accuracy(results, OutcomeStore(results / "outcomes"))
            kinds.append({each.over_trainings.pairs for each in found.found if "5-shot" in each.task})
        assert kinds == [{4}, {1}]

    def test_a_constant_measure_has_no_correlation_and_a_missing_one_no_row(self, results):
        record = correlations_record(correlate_with_accuracy(results, OutcomeStore(results / "outcomes")))
        assert {row["measure"]: row["spearman"] for row in record["correlations"]} == {
            "isotropy score, raw": 1,
            "RankMe, l2": None,
        }

    def test_it_writes_two_tables_and_a_figure(self, results):
        found = correlate_with_accuracy(results, OutcomeStore(results / "outcomes"))
        files = store_correlations(found, results)
        assert {path.name for path in files} == {"correlations.svg", "correlations.png"}
        assert rows(results / "embeddings" / "correlations.csv")[0]["spearman"] == "1"
        points = rows(results / "embeddings" / "accuracies.csv")
        assert [row["network"] for row in points] == ["a 0", "a 1", "b", "c", "d"]
        console = Console(width=120, record=True, file=io.StringIO())
        print_correlations(found, console)
        assert "5 networks of 4 kinds of training" in " ".join(console.export_text().split())

    def test_too_few_networks_are_one_line(self, results):
        store = OutcomeStore(results / "outcomes")
        for path in sorted((results / "embeddings").glob("card-*.json"))[:2]:
            path.unlink()
        with pytest.raises(OutcomeError, match="3 networks have both"):
            correlate_with_accuracy(results, store)
        with pytest.raises(OutcomeError, match="no embedding cards"):
            correlate_with_accuracy(results / "elsewhere", store)
