"""Which WordNet ids are meant, where a file of tieredImageNet has only words or numbers for its classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def synsets_of_names(names: Sequence[str], candidates: Sequence[str]) -> list[str] | None:
    """WordNet ids of class names such as "space shuttle" or of WordNet ids themselves.

    Args:
        names: of all classes of a split.
        candidates: WordNet ids of the split. Among those of one split of tieredImageNet no name occurs twice.

    Returns:
        One id per name; None unless every name is that of a different candidate.
    """
    if set(names) <= set(candidates):
        return list(names) if len(set(names)) == len(names) else None
    from timm.data.imagenet_info import ImageNetInfo

    described = ImageNetInfo("imagenet-1k")
    by_name = {_plain(described.label_name_to_description(synset)): synset for synset in candidates}
    found = [by_name.get(_plain(name)) for name in names]
    known = [synset for synset in found if synset is not None]
    return known if len(known) == len(names) == len(set(known)) else None


def synsets_of_sizes(sizes: Sequence[int], official: Mapping[str, int]) -> list[str] | None:
    """WordNet ids of numbered classes, if the numbers count the classes in sorted order.

    A tenth of the classes has a size of its own, so that a row of hundreds of equal sizes is no accident; a file whose
    classes are numbered in another order is not recognised rather than guessed at.

    Args:
        sizes: images of each class, in the order of their numbers.
        official: the sizes of the split's classes, in sorted order of their ids.
    """
    return list(official) if list(official.values()) == list(sizes) else None


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())
