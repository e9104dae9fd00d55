"""Each measure equals its definition, computed by hand, in the plainest way, or by an independent library."""

import math

import numpy as np
import pytest
from clusters_of_classes import by_name, clusters
from scipy.special import logsumexp

from fewshot_bench.embeddings import compare_embeddings, measure, similarity_histograms
from fewshot_bench.embeddings.similarities import auc_of_counts

ROWS, LABELS = clusters()
MEASURED = by_name(measure(ROWS, LABELS, intervals=False))


def in_variant(rows, variant):
    rows = rows.astype(np.float64)
    if variant in ("centred", "cl2"):
        rows = rows - rows.mean(axis=0)
    if variant in ("l2", "cl2"):
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def pairs(rows, labels):
    """Cosines of all pairs of different images, and whether they share their class."""
    rows = in_variant(rows, "l2")
    first, second = np.triu_indices(len(rows), 1)
    return np.einsum("pd,pd->p", rows[first], rows[second]), labels[first] == labels[second]


# Spectrum


def test_isotropy_score_by_hand():
    # V'V = diag(2, 6), so the eigenvectors are the axes; Z(+-e1) = 2 + e + 1/e, Z(e2) = 2 + e^2 + e^-sqrt(2) and so on.
    root = math.sqrt(2)
    rows = np.array([[1, 0], [-1, 0], [0, 2], [0, -root]], dtype=np.float32)
    z = [2 + math.e + 1 / math.e, 2 + math.exp(2) + math.exp(-root), 2 + math.exp(-2) + math.exp(root)]
    score = by_name(measure(rows, [0, 0, 1, 1], intervals=False))["isotropy_score", "raw"]
    assert score == pytest.approx(min(z) / max(z), rel=1e-6)


@pytest.mark.parametrize("variant", ["raw", "centred", "l2", "cl2"])
def test_isotropy_score_is_the_smallest_over_the_largest_partition_function(variant):
    rows = in_variant(ROWS, variant)
    projections = rows @ np.linalg.eigh(rows.T @ rows)[1]
    log_z = logsumexp(np.hstack([projections, -projections]), axis=0)
    assert MEASURED["isotropy_score", variant] == pytest.approx(math.exp(log_z.min() - log_z.max()), rel=1e-5)


def test_isotropy_score_survives_embeddings_whose_exponentials_do_not():
    rows = ROWS * np.float32(200)
    projections = rows.astype(np.float64) @ np.linalg.eigh(rows.T.astype(np.float64) @ rows)[1]
    log_z = logsumexp(np.hstack([projections, -projections]), axis=0)
    assert log_z.max() > 710  # exp overflows
    score = by_name(measure(rows, LABELS, intervals=False))["isotropy_score", "raw"]
    assert score == pytest.approx(math.exp(log_z.min() - log_z.max()), rel=1e-2, abs=1e-300)


@pytest.mark.parametrize("variant", ["raw", "centred", "l2", "cl2"])
def test_rankme_is_the_exponential_entropy_of_the_singular_values(variant):
    values = np.linalg.svd(in_variant(ROWS, variant), compute_uv=False)
    shares = values / values.sum()
    assert MEASURED["rankme", variant] == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-9)


@pytest.mark.parametrize("variant", ["raw", "l2", "cl2"])
def test_participation_ratio_comes_from_the_eigenvalues_of_the_covariance(variant):
    values = np.linalg.eigvalsh(np.cov(in_variant(ROWS, variant).T))
    assert MEASURED["participation_ratio", variant] == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-9)


def isoscore(rows):
    """The algorithm of Rudman et al. (2022), step by step."""
    n = rows.shape[1]
    diagonal = np.linalg.eigvalsh(np.cov(rows.T))
    normalised = math.sqrt(n) * diagonal / np.linalg.norm(diagonal)
    defect = np.linalg.norm(normalised - 1) / math.sqrt(2 * (n - math.sqrt(n)))
    uniform_share = (n - defect**2 * (n - math.sqrt(n))) ** 2 / n**2
    return (n * uniform_share - 1) / (n - 1)


def test_isoscore_is_the_published_algorithm():
    assert MEASURED["isoscore", "raw"] == pytest.approx(isoscore(ROWS.astype(np.float64)), rel=1e-9)


def test_isoscore_is_that_of_its_package():
    package = pytest.importorskip("IsoScore.IsoScore")
    assert MEASURED["isoscore", "raw"] == pytest.approx(float(package.IsoScore(ROWS.astype(np.float64))), rel=1e-6)


def test_isoscore_of_the_package_as_it_was():
    # IsoScore 2.0.1 on PyPI: IsoScore(clusters()[0] as float64)
    assert MEASURED["isoscore", "raw"] == pytest.approx(0.7007315571655167, rel=1e-6)


def test_isoscore_by_hand():
    rows = np.array([[1, 0], [-1, 0], [0, 2], [0, -2]], dtype=np.float32)  # variances 2 and 8: (10^2 / 68 - 1) / 1
    assert by_name(measure(rows, [0, 0, 1, 1], intervals=False))["isoscore", "raw"] == pytest.approx(32 / 68)


# Pairs


def test_histograms_count_every_pair_as_numpy_does():
    cosines, is_same = pairs(ROWS, LABELS)
    found = similarity_histograms(ROWS, LABELS, 50)
    np.testing.assert_array_equal(found.same, np.histogram(cosines[is_same], found.edges)[0])
    np.testing.assert_array_equal(found.different, np.histogram(cosines[~is_same], found.edges)[0])
    assert (found.same.sum(), found.different.sum()) == (5 * 28, 10 * 64)


@pytest.mark.parametrize("bins", [7, 100, 10_000])
def test_auc_is_that_of_scikit_learn_within_its_bound(bins):
    metrics = pytest.importorskip("sklearn.metrics")
    cosines, is_same = pairs(ROWS, LABELS)
    found = similarity_histograms(ROWS, LABELS, bins)
    exact = metrics.roc_auc_score(is_same, cosines)
    assert abs(found.auc - exact) <= found.auc_bound
    assert found.auc_bound < {7: 0.5, 100: 0.05, 10_000: 5e-4}[bins]
    assert MEASURED["cosine_auc", "l2"] == pytest.approx(exact, abs=5e-4)


def test_the_bound_is_reached_where_all_ties_go_one_way():
    assert auc_of_counts(np.array([0, 4]), np.array([0, 5])) == (0.5, 0.5)
    assert auc_of_counts(np.array([0, 4]), np.array([5, 0])) == (1.0, 0.0)


def test_two_named_classes_are_those_two_alone():
    chosen = np.isin(LABELS, [1, 3])
    alone = similarity_histograms(ROWS[chosen], LABELS[chosen], 100)
    named = similarity_histograms(ROWS, LABELS, 100, classes=[3, 1])
    np.testing.assert_array_equal(named.same, alone.same)
    np.testing.assert_array_equal(named.different, alone.different)
    assert (named.same.sum(), named.different.sum()) == (2 * 28, 64)


def test_mean_cosines_are_those_of_pytorch_metric_learning():
    distances = pytest.importorskip("pytorch_metric_learning.distances")
    torch = pytest.importorskip("torch")
    cosines = distances.CosineSimilarity()(torch.from_numpy(ROWS).double()).numpy()
    is_same, is_pair = LABELS[:, None] == LABELS, ~np.eye(len(LABELS), dtype=bool)
    assert MEASURED["same_class_cosine", "l2"] == pytest.approx(cosines[is_same & is_pair].mean(), abs=1e-6)
    assert MEASURED["different_class_cosine", "l2"] == pytest.approx(cosines[~is_same].mean(), abs=1e-6)


def test_alignment_and_uniformity_as_wang_and_isola_print_them():
    torch = pytest.importorskip("torch")
    rows = torch.from_numpy(in_variant(ROWS, "l2"))
    first, second = np.triu_indices(len(rows), 1)
    is_positive = LABELS[first] == LABELS[second]
    x, y = rows[first[is_positive]], rows[second[is_positive]]
    alignment = (x - y).norm(p=2, dim=1).pow(2).mean()
    uniformity = torch.pdist(rows, p=2).pow(2).mul(-2).exp().mean().log()
    assert MEASURED["alignment", "l2"] == pytest.approx(float(alignment), abs=1e-6)
    assert MEASURED["uniformity", "l2"] == pytest.approx(float(uniformity), abs=1e-6)


# Classes


def test_nc1_is_the_trace_of_within_times_the_pseudoinverse_of_between():
    rows = ROWS.astype(np.float64)
    means = np.stack([rows[label == LABELS].mean(axis=0) for label in range(5)])
    within = (rows - means[LABELS]).T @ (rows - means[LABELS]) / len(rows)
    between = (means - means.mean(axis=0)).T @ (means - means.mean(axis=0)) / 5
    expected = np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / 5
    assert MEASURED["nc1", "raw"] == pytest.approx(expected, rel=1e-9)


def test_nc1_by_hand():
    # Classes at 0 and 4 on the first axis: S_B = diag(4, 0); deviations of 1: S_W = diag(1, ...); 1 / 4 / 2
    rows = np.array([[-1, 7], [1, 9], [3, 7], [5, 9]], dtype=np.float32)
    assert by_name(measure(rows, [0, 0, 1, 1], intervals=False))["nc1", "raw"] == pytest.approx(1 / 8)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["raw", "l2"])
def test_nearest_class_mean_accuracy_is_scikit_learns_leaving_one_out(variant):
    neighbors, selection = pytest.importorskip("sklearn.neighbors"), pytest.importorskip("sklearn.model_selection")
    rows, labels = clusters(6, 7, 4, spread=1.5)
    scores = selection.cross_val_score(
        neighbors.NearestCentroid(), in_variant(rows, variant), labels, cv=selection.LeaveOneOut()
    )
    assert 0.2 < scores.mean() < 0.95
    found = by_name(measure(rows, labels, intervals=False))["ncm_accuracy", variant]
    assert found == pytest.approx(scores.mean(), abs=1e-12)


def test_the_only_image_of_a_class_is_not_scored_but_its_class_mean_competes():
    rows = np.array([[0.0, 1], [0.2, 1], [5, 1], [5.2, 1], [0.1, 1]], dtype=np.float32)
    measured = by_name(measure(rows, [0, 0, 1, 1, 2], intervals=False))
    assert measured["ncm_accuracy", "raw"] == 0.5  # both images of class 0 are nearer to class 2


# Two networks


def centred_gram(rows):
    rows = rows - rows.mean(axis=0)
    return rows @ rows.T


def unbiased_hsic(k, other):
    """Song et al. (2012), with Gram matrices."""
    k, other = k - np.diag(np.diag(k)), other - np.diag(np.diag(other))
    n, ones = len(k), np.ones(len(k))
    return (
        np.trace(k @ other)
        + (ones @ k @ ones) * (ones @ other @ ones) / ((n - 1) * (n - 2))
        - 2 * ones @ k @ other @ ones / (n - 2)
    ) / (n * (n - 3))


@pytest.fixture(scope="module")
def other_rows():
    generator = np.random.default_rng(5)
    mixed = ROWS @ generator.normal(size=(6, 4)) + generator.normal(size=(len(ROWS), 4))
    return mixed.astype(np.float32)


@pytest.mark.parametrize("without", [None, 2])
def test_cka_is_that_of_gram_matrices(other_rows, without):
    rows = {(row.name, row.variant): row for row in compare_embeddings(ROWS, other_rows, LABELS)}
    kept = np.ones(len(LABELS), dtype=bool) if without is None else without != LABELS
    a, b = (side[kept].astype(np.float64) for side in (ROWS, other_rows))
    k, other = centred_gram(a), centred_gram(b)
    plain = (k * other).sum() / math.sqrt((k * k).sum() * (other * other).sum())
    k, other = a @ a.T, b @ b.T
    debiased = unbiased_hsic(k, other) / math.sqrt(unbiased_hsic(k, k) * unbiased_hsic(other, other))
    for variant, expected in (("plain", plain), ("debiased", debiased)):
        row = rows["linear_cka", variant]
        assert (row.value if without is None else row.replicates[without]) == pytest.approx(expected, rel=1e-7)
