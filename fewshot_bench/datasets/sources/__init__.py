"""Folders and archives from strangers, read in place: nothing is unpacked under a name that an archive chose."""

from fewshot_bench.datasets.sources.open import open_tree
from fewshot_bench.datasets.sources.tree import FileTree, Subtree

__all__ = ["FileTree", "Subtree", "open_tree"]
