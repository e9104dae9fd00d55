from __future__ import annotations

import pytest

from fewshot_bench.episodes import SAMPLERS, Protocol
from fewshot_bench.episodes.protocol import SAMPLERS_DEFAULT
from fewshot_bench.errors import EpisodeError
from fewshot_bench.study import Study
from fewshot_bench.study.sweep import with_values

SIZES = (30,) * 8


def test_a_study_of_the_standard_sampler_has_the_protocols_it_always_had():
    for study in (Study(), Study(sampler="standard")):
        assert study.protocols() == [Protocol("glyphs", shot=shot, episodes=3000, runs=3) for shot in (1, 5)]
        assert study.protocols((60,) * 20) == study.protocols()


def test_settings_reach_the_protocols():
    study = Study(sampler="varied", least_way=3, way=6, shots=(2,), least_shot=2)
    assert study.protocols() == [Protocol("glyphs", way=6, shot=2, sampler="varied", least_way=3, least_shot=2)]
    assert Study(sampler="dirichlet", alpha=1).protocols()[0].sampler_settings == {"alpha": 1.0}


def test_disjoint_tasks_are_all_there_are_in_one_run_unless_fewer_are_asked_for():
    study = Study(sampler="disjoint", query=5)
    assert [(p.episodes, p.runs) for p in study.protocols()] == [(SAMPLERS_DEFAULT, 1)] * 2
    one, five = study.protocols(SIZES)
    assert one.episodes > five.episodes > 0
    fewer = Study(sampler="disjoint", query=5, episodes=3)
    assert [p.episodes for p in fewer.protocols(SIZES)] == [3, 3]
    with pytest.raises(EpisodeError, match=f"{five.episodes} disjoint episodes"):
        Study(sampler="disjoint", query=5, episodes=one.episodes).protocols(SIZES)
    with pytest.raises(EpisodeError, match="one run of them, not 2"):
        Study(sampler="disjoint", runs=2).protocols()


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "whole"])
def test_a_point_of_a_grid_has_the_episodes_of_its_study(sampler):
    study = Study(sampler=sampler, query=5)
    assert with_values(study, {"lambda": 0.3}).protocols(SIZES) == study.protocols(SIZES)
