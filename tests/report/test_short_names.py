from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fewshot_bench.report.names import short_name, short_names, without_common_prefix


def test_a_long_name_keeps_both_ends():
    assert short_name("abcdefghij", 7) == "abc…hij"
    assert short_name("abcdefg", 7) == "abcdefg"


def test_names_that_differ_in_the_middle_are_cut_at_the_ends():
    names = [f"resnet12/base-ce@epochs={number}/episode-ce/finetune" for number in (3, 7)]
    assert short_names(names, 24) == ["…@epochs=3/episode-ce/f…", "…@epochs=7/episode-ce/f…"]


def test_equal_names_get_their_numbers():
    assert short_names(["a", "b", "a"], 10) == ["a #1", "b", "a #3"]


@given(st.lists(st.text("ab/", min_size=1, max_size=30), min_size=1, max_size=8), st.integers(7, 20))
def test_short_names_are_short_and_different(names, longest):
    short = short_names(names, longest)
    assert len(set(short)) == len(names)
    assert all(len(text.partition(" #")[0]) <= longest for text in short)


def test_stages_that_all_methods_share_are_left_out_before_anything_is_cut():
    names = ["network@image_size=128/knn", "network@image_size=128/tim@alpha=2.0", "ResNet-12 MetaOptNet"]
    assert short_names(names, 20) == ["knn", "tim@alpha=2.0", "ResNet-12 MetaOptNet"]
    assert short_names(names, 40) == names


def test_a_single_method_and_methods_of_several_networks_keep_their_stages():
    assert without_common_prefix(["network/knn"]) == ("", ["network/knn"])
    assert without_common_prefix(["a/knn", "b/knn"]) == ("", ["a/knn", "b/knn"])


def test_a_method_keeps_its_last_stage():
    names = ["a/base-ce/knn", "a/base-ce/knn", "a/base-ce/episode-ce/finetune"]
    assert without_common_prefix(names) == ("a/base-ce/", ["knn", "knn", "episode-ce/finetune"])


def test_no_prefix_is_taken_away_where_two_methods_would_be_called_the_same():
    names = ["a/knn", "a/tim", "knn"]
    assert without_common_prefix(names) == ("", names)


@given(st.lists(st.text("ab/", min_size=1, max_size=12), min_size=1, max_size=8))
def test_a_prefix_and_what_is_left_are_the_name(names):
    prefix, shortened = without_common_prefix(names)
    assert all(name in (text, prefix + text) for name, text in zip(names, shortened, strict=True))
    assert [names.index(name) for name in names] == [shortened.index(text) for text in shortened]
    assert all(shortened)
