"""The whole recipe in one go: what runs side by side, and what happens when a part of it fails."""

import time

import pytest

from model import parallel_stages, recipe
from model.recipe_options import DEFAULT, Options

NEEDS = {
    "features": {"lm", "vit"},
    "stage1": {"features"},
    "stage2": {"features"},
    "instruct": {"stage1", "stage2"},
}


@pytest.mark.parametrize("threads", [1, 2, 16])
@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize("options", [DEFAULT, Options(start="stage-1")])
def test_every_stage_once_and_after_what_it_needs(threads, processes, options):
    order = parallel_stages.stage_groups(options, threads, processes)
    assert [stage for group in order for stage in group] == list(recipe.STAGES)
    needs = NEEDS | ({"stage2": {"features", "stage1"}} if options.start == "stage-1" else {})
    for number, group in enumerate(order):
        done = {stage for before in order[:number] for stage in before}
        assert all(needs.get(stage, set()) <= done for stage in group), group


def test_in_parallel_only_where_there_is_room():
    assert max(map(len, parallel_stages.stage_groups(DEFAULT, 2, 1))) == 2
    assert (
        max(map(len, parallel_stages.stage_groups(DEFAULT, 1, 1)))
        == max(map(len, parallel_stages.stage_groups(DEFAULT, 16, 2)))
        == 1
    )


@pytest.mark.slow
def test_a_stage_that_fails_is_named_and_stops_the_one_beside_it(tmp_path, capfd):
    """The ViT at full length would take hours; stage 2 has nothing to start from."""
    recipe.load_tokenizer(tmp_path)
    runs = {stage: (1, stage, tmp_path, 1.0, "fp32", DEFAULT) for stage in ("vit", "stage2")}
    began = time.monotonic()
    with pytest.raises(SystemExit, match="the stage stage2 failed"):
        parallel_stages._in_parallel(runs)
    assert time.monotonic() - began < 120
    assert "run the stages before it first" in capfd.readouterr().err
