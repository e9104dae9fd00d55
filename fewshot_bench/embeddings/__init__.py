"""What embeddings look like: isotropy, similarities of pairs, the geometry of classes, with intervals over classes.

Linear and kNN probes say how well the classes of a whole dataset can be read from them.
"""

from fewshot_bench.embeddings.knn_probe import KNNChoice, KNNProbe, chosen_knn_probe
from fewshot_bench.embeddings.labelled_embeddings import LabelledEmbeddings, ProbeFeatures, TrainingImages
from fewshot_bench.embeddings.linear_probe import (
    LinearChoice,
    LinearProbe,
    chosen_linear_probe,
    fitted_linear_probe,
)
from fewshot_bench.embeddings.measures import MEASURES, Measure, Measured, compare_embeddings, measure
from fewshot_bench.embeddings.similarities import SimilarityHistograms, similarity_histograms

__all__ = [
    "MEASURES",
    "KNNChoice",
    "KNNProbe",
    "LabelledEmbeddings",
    "LinearChoice",
    "LinearProbe",
    "Measure",
    "Measured",
    "ProbeFeatures",
    "SimilarityHistograms",
    "TrainingImages",
    "chosen_knn_probe",
    "chosen_linear_probe",
    "compare_embeddings",
    "fitted_linear_probe",
    "measure",
    "similarity_histograms",
]
