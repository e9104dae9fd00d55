"""Whether the backbone has seen the classes that it is tested on."""

from __future__ import annotations

from fewshot_bench.audit.finding import Finding, Verdict
from fewshot_bench.outcomes import Cell
from fewshot_bench.report.flags import overlap

CHECK = "pretraining"
_VERDICTS: dict[str, Verdict] = {"shared": "fail", "unknown": "not checked", "none": "pass"}
_OTHER_IMAGES = ("cifar-fs", "fc100")


def check_pretraining(cell: Cell) -> Finding:
    """What is recorded of the pretraining, against the novel classes of the dataset."""
    pretraining: str | None = cell.provenance.get("pretraining")
    found = overlap(pretraining, cell.protocol.dataset)
    if found.flag:
        return Finding(CHECK, _VERDICTS[found.kind], found.flag)
    detail = f"on {pretraining}: no novel class" if pretraining else "trained from an initialisation"
    if pretraining is None:
        detail = "not recorded, and no corpus holds these images"
    if found.kind == "none" and cell.protocol.dataset in _OTHER_IMAGES and "ImageNet-" in (pretraining or ""):
        detail = f"on {pretraining}: classes of the same kinds, such as a leopard, but other images"
    return Finding(CHECK, _VERDICTS[found.kind], detail)
