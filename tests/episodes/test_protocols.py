from __future__ import annotations

from dataclasses import replace

import pytest

from fewshot_bench.episodes import Protocol
from fewshot_bench.errors import EpisodeError, UnknownNameError
from fewshot_bench.outcomes import ProtocolCard

CARD = ProtocolCard("toy", "ab", "novel", 5, 1, 15, 0, 1, "dirichlet", {"alpha": 2.0})


def test_what_is_left_out_takes_the_default_of_the_sampler():
    assert Protocol("toy") == Protocol("toy", episodes=3000, runs=3, sampler="standard")
    assert Protocol("toy", sampler="dirichlet") == Protocol("toy", sampler="dirichlet", alpha=2)
    assert Protocol("toy", sampler="varied") == Protocol("toy", sampler="varied", least_way=2, least_shot=1)
    assert Protocol("toy", sampler="disjoint").runs == 1


def test_settings_are_those_of_the_sampler_and_nothing_else():
    assert Protocol("toy").sampler_settings == {}
    assert Protocol("toy", sampler="disjoint").sampler_settings == {}
    assert Protocol("toy", sampler="dirichlet", alpha=1).sampler_settings == {"alpha": 1.0}
    assert Protocol("toy", sampler="varied").sampler_settings == {"least_way": 2, "least_shot": 1}


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"alpha": 1.0}, "--alpha is for the dirichlet sampler, not for standard. Add --sampler dirichlet"),
        ({"least_way": 2, "sampler": "disjoint"}, "--least-way is for the varied sampler, not for disjoint"),
        ({"sampler": "dirichlet", "alpha": 0.0}, "--alpha should be from 0.001 to 1,000 with at most three decimals"),
        ({"sampler": "dirichlet", "alpha": 0.12345}, "at most three decimals, not 0.12345"),
        ({"sampler": "dirichlet", "alpha": float("nan")}, "not nan"),
        ({"sampler": "varied", "least_way": 6}, "--least-way of the varied sampler should be from 2 to 5"),
        ({"sampler": "varied", "least_way": 1}, "should be from 2 to 5, the largest way, not 1"),
        ({"sampler": "varied", "least_shot": 2}, "--least-shot of the varied sampler should be from 1 to 1"),
        ({"sampler": "varied", "least_way": 2.5}, "not 2.5"),
    ],
)
def test_a_setting_that_does_not_go_is_refused_with_the_way_out(fields, sentence):
    with pytest.raises(EpisodeError) as error:
        Protocol("toy", **fields)
    assert sentence in str(error.value)


def test_an_unknown_sampler_answers_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"no sampler called 'disjoined'\. Did you mean disjoint\?"):
        Protocol("toy", sampler="disjoined")


def test_names_tell_protocols_apart():
    names = [
        Protocol("toy").name,
        Protocol("toy", sampler="disjoint").name,
        Protocol("toy", sampler="dirichlet").name,
        Protocol("toy", sampler="dirichlet", alpha=0.5).name,
        Protocol("toy", split="base", shot=5, sampler="varied", least_way=4, least_shot=2).name,
    ]
    assert names == [
        "toy-5way-1shot",
        "toy-5way-1shot-disjoint",
        "toy-5way-1shot-dirichlet",
        "toy-5way-1shot-dirichlet-alpha0.5",
        "toy-base-5way-5shot-varied-leastway4-leastshot2",
    ]


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"sampler_settings": {}}, EpisodeError, "the dirichlet sampler takes alpha, not {}"),
        ({"sampler_settings": {"alpha": "2"}}, EpisodeError, "the dirichlet sampler takes alpha"),
        ({"sampler": "standard"}, EpisodeError, "the standard sampler takes no settings"),
        ({"sampler": "varied"}, EpisodeError, "the varied sampler takes least_way and least_shot"),
        ({"sampler": "loaded"}, UnknownNameError, "no sampler called 'loaded'"),
        ({"split": "nouvelle"}, UnknownNameError, "no split called 'nouvelle'"),
        ({"sampler_version": 2}, EpisodeError, "sampler version 2; this is version 1"),
    ],
)
def test_a_stored_protocol_that_nobody_can_draw_is_refused(change, error, sentence):
    with pytest.raises(error) as raised:
        Protocol.of(replace(CARD, **change))
    assert sentence in str(raised.value)
