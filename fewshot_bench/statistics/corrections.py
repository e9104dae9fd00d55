"""Several tests at once: p values corrected for how many there are."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewshot_bench.errors import ShapeError, UnknownNameError

Correction = Literal["holm", "bh", "none"]
STATSMODELS_NAME = {"holm": "holm", "bh": "fdr_bh"}


def corrected(p: ArrayLike, method: Correction = "holm") -> NDArray[np.float64]:
    """Correct p values for the number of tests.

    Args:
        p: of each test, of any shape; NaN where there was no test, which stays NaN and does not count.
        method: "holm" (Holm, 1979) keeps the chance of any false discovery below alpha; "bh" (Benjamini & Hochberg,
            1995) keeps the expected share of false ones among the discoveries below alpha; "none" changes nothing.

    Returns:
        Corrected p values of the same shape, to be compared with the same alpha.

    Raises:
        UnknownNameError: there is no such correction.
        ShapeError: a p is not between 0 and 1.
    """
    if method not in get_args(Correction):
        raise UnknownNameError("correction", method, get_args(Correction))
    values = np.array(p, dtype=np.float64)
    tested = ~np.isnan(values)
    if ((values[tested] < 0) | (values[tested] > 1)).any():
        raise ShapeError("p values must lie between 0 and 1; some do not.")
    if method != "none" and tested.any():
        from statsmodels.stats.multitest import multipletests

        values[tested] = multipletests(values[tested], method=STATSMODELS_NAME[method])[1]
    return values
