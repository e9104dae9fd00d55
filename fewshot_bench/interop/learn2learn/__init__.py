"""A bridge to learn2learn (Arnold et al., 2020): its tasks and ours, and its learners on our episodes.

The package learn2learn is imported only where one of its tasksets is made; everything else works with objects that
look like its own.
"""

from fewshot_bench.interop.learn2learn.learners import evaluate
from fewshot_bench.interop.learn2learn.recording import record_taskset
from fewshot_bench.interop.learn2learn.tasksets import SplitImages, SupportPositions, make_taskset

__all__ = ["SplitImages", "SupportPositions", "evaluate", "make_taskset", "record_taskset"]
