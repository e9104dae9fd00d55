"""Labels that tables show instead of the names of methods."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from stored_cells import cell, fill, study

from fewshot_bench.errors import ComparisonError, UnknownNameError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.report import as_latex, as_markdown, labels_of_texts, leaderboard, with_labels

NAMES = ("lite0/logistic", "lite0/centroid", "lite0/finetune@lambda=0.9,tau=0.5")

BOARD = pd.DataFrame(
    {"method": [*NAMES, "BEiT-3 logistic"], "method_fingerprint": [*(f"{n:064d}" for n in range(3)), None]}
)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("lite0/logistic=Ours", {"lite0/logistic": "Ours"}),
        ("logis = Ours, at last", {"lite0/logistic": "Ours, at last"}),
        ("lite0/finetune@lambda=0.9,tau=0.5=Ours (λ=0.9)", {NAMES[2]: "Ours (λ=0.9)"}),
        ("lambda=0.9=x", {NAMES[2]: "x"}),
        ("lite0/logistic#00000000=x", {"lite0/logistic#00000000": "x"}),
        ("BEiT-3 logistic=Long et al.", {"BEiT-3 logistic": "Long et al."}),
    ],
)
def test_the_left_side_is_the_longest_that_names_a_method(text, labels):
    assert labels_of_texts(BOARD, [text]) == labels


@pytest.mark.parametrize(
    ("texts", "error", "sentence"),
    [
        (["lite0/logistik=Ours"], UnknownNameError, "no method called 'lite0/logistik'. Did you mean lite0/logistic?"),
        (["lite0=Ours"], ComparisonError, "'lite0' fits 3 methods"),
        (["Ours"], ComparisonError, "a label is given as METHOD=LABEL, not 'Ours'"),
        (["logistic= "], ComparisonError, "a label is given as METHOD=LABEL"),
        (["=Ours"], ComparisonError, "a label is given as METHOD=LABEL"),
        (["logistic=A", "lite0/logistic=B"], ComparisonError, "lite0/logistic would be called both 'A' and 'B'"),
    ],
)
def test_a_wrong_label_is_one_sentence(texts, error, sentence):
    with pytest.raises(error, match=sentence):
        labels_of_texts(BOARD, texts)


def test_methods_and_their_baseline_are_called_by_labels_and_the_leaderboard_stays(tmp_path):
    board = leaderboard(study(tmp_path), "logistic")
    labelled = with_labels(board, labels_of_texts(board, ["logistic=Base & 1", "schane=Ours_2"]))
    assert set(labelled["method"]) == {"Base & 1", "Ours_2", "conv/ce/centroid"}
    assert set(labelled["baseline"]) == {"Base & 1"}
    assert "conv/ce/logistic" in set(board["method"])
    assert r"Ours\_2" in as_markdown(labelled)
    assert r"Base \& 1" in as_latex(labelled)


def test_a_fingerprint_tells_methods_of_one_name_apart(tmp_path):
    store = OutcomeStore(tmp_path)
    cells = [cell("same", weights=weights) for weights in ("one", "two")]
    for number, of in enumerate(cells):
        fill(store, of, np.array([[30 + number, 40]]))
    board = leaderboard(store)
    first, second = (of.method.label for of in cells)
    labels = labels_of_texts(board, [f"{first}=One"])
    assert set(with_labels(board, labels)["method"]) == {"One", second}
    with pytest.raises(ComparisonError, match="two methods on cifar-fs 5-way 1-shot would be called 'Both': same#"):
        with_labels(board, labels_of_texts(board, ["same=Both"]))


def test_a_label_that_another_method_of_the_protocol_is_called_is_refused(tmp_path):
    board = leaderboard(study(tmp_path))
    with pytest.raises(ComparisonError, match=r"would be called 'conv/ce/centroid': .* Give each its own label"):
        with_labels(board, {"conv/ce/logistic": "conv/ce/centroid"})


def test_methods_of_different_protocols_may_have_one_label_and_then_share_a_row(tmp_path):
    store = OutcomeStore(tmp_path)
    fill(store, cell("a-cifar", dataset="cifar-fs"), np.array([[30, 40]]))
    fill(store, cell("a-coins", dataset="coins"), np.array([[30, 40]]))
    board = leaderboard(store)
    labelled = with_labels(board, labels_of_texts(board, ["a-cifar=Ours", "a-coins=Ours"]))
    text = as_markdown(labelled)
    assert text.count("Ours") == 1
    assert "–" not in text
