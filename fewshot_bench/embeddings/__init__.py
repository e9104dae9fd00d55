"""What embeddings look like: isotropy, similarities of pairs, the geometry of classes, with intervals over classes."""

from fewshot_bench.embeddings.measures import MEASURES, Measure, Measured, compare, measure
from fewshot_bench.embeddings.similarities import SimilarityHistograms, similarity_histograms

__all__ = [
    "MEASURES",
    "Measure",
    "Measured",
    "SimilarityHistograms",
    "compare",
    "measure",
    "similarity_histograms",
]
