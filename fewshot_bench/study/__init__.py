"""A study: the grid of cells that `fewshot-bench run` works through."""
