"""The corpora that a backbone was pretrained on, as text in the order of training, e.g. "ImageNet-21k, ImageNet-1k".

The text is empty for an initialisation, and "unknown" for a weights file.
"""

from __future__ import annotations

import re

import timm

from fewshot_bench.backbones.backbone import BACKBONES

UNKNOWN = "unknown"

_CORPORA = (
    (r"in1k", "ImageNet-1k"),
    (r"in12k", "ImageNet-12k"),
    (r"in21k", "ImageNet-21k"),
    (r"in22k", "ImageNet-22k"),
    (r"laion2b", "LAION-2B"),
    (r"laion400m", "LAION-400M"),
    (r"laiona", "LAION-Aesthetics"),
    (r"openai", "WIT-400M"),
    (r"webli", "WebLI"),
    (r"datacomp\w*", "DataComp"),
    (r"df[ns]\w*", "DFN"),
    (r"metaclip\w*", "MetaCLIP"),
    (r"merged2b", "Merged-2B"),
    (r"m38m", "Merged-38M"),
    (r"lvd142m", "LVD-142M"),
    (r"lvd1689m", "LVD-1689M"),
    (r"jft\w*", "JFT"),
    (r"ig1b", "Instagram-1B"),
    (r"yfcc100m", "YFCC-100M"),
    (r"yfcc15m", "YFCC-15M"),
)
"""How timm abbreviates a corpus in the tag of its weights."""


def pretraining_of_tag(tag: str) -> str:
    """The corpora that a timm weights tag names, or "unknown"; "augreg_in21k_ft_in1k" is ImageNet-21k, ImageNet-1k."""
    named = []
    for word in re.split(r"[_.]", tag.lower()):
        named += [corpus for pattern, corpus in _CORPORA if re.fullmatch(pattern, word)]
    return ", ".join(dict.fromkeys(named)) or UNKNOWN


def default_pretraining(name: str) -> str:
    """The corpora of the default weights of a registered backbone or timm model; nothing is loaded or fetched."""
    model = name.removeprefix("timm:")
    if model != name or (name not in BACKBONES and timm.is_model(name)):
        config = timm.get_pretrained_cfg(model)
        return pretraining_of_tag(str(config.tag or "")) if config is not None else UNKNOWN
    facts = BACKBONES[name].facts if name in BACKBONES else {}
    return str(facts.get("pretrained", UNKNOWN))


def then(*stages: str) -> str:
    """Several stages of pretraining as one text, without empty ones."""
    return ", ".join(stage for stage in stages if stage)
