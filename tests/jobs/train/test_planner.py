import json

import pytest

from aligner.errors import ConfigError
from aligner_jobs import programs
from aligner_jobs.train import planner
from aligner_jobs.train.planner import resources
from aligner_jobs.train.size import Size, size_of, sizes_of

NOT_LOOKED_FOR = "plan.sample_rows=0"


def shipped(size: str, *overrides: str) -> Size:
    path = programs.shipped_config("jobs", f"train/{size}.yaml")
    return size_of(path, [NOT_LOOKED_FOR, *overrides])


def test_a_plan_for_programs_holds_what_people_are_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    planner.run([shipped("7b")], as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] is True
    assert found["parameters"] == 6_738_415_616
    assert found["memory"]["peak"] == sum(found["memory"]["parts"].values())
    assert found["steps"] == {"warmup": 40, "correction": 588}
    assert found["usd"] > 0 and found["seconds"] > 0
    assert {"torch", "deepspeed"} <= set(found["versions"])
    planner.run([shipped("7b")])
    shown = capsys.readouterr().out
    for expected in ("optimizer", "40 warmup, 588 correction", "22.500", "deepspeed 0."):
        assert expected in shown


def test_several_sizes_are_planned_by_name_and_each_refusal_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    few = [NOT_LOOKED_FOR, "num_workers=1"]
    with pytest.raises(ConfigError) as caught:
        planner.run(sizes_of("0.5b,7b,13b", few), as_json=True)
    assert set(json.loads(capsys.readouterr().out)) == {"0.5b", "7b", "13b"}
    sentences = str(caught.value).splitlines()
    assert [sentence.partition(".yaml")[0].rpartition("/")[2] for sentence in sentences] == [
        "7b",
        "13b",
    ]


def test_what_fits_on_all_workers_alone_is_refused_where_fewer_are_to_do() -> None:
    with pytest.raises(ConfigError, match=r"when only min_workers=1 are left: does not fit on 1 x"):
        planner.run([shipped("13b", "min_workers=1")], as_json=True)
    planner.run([shipped("13b", "min_workers=7")], as_json=True)


def test_resources_are_the_papers_for_the_papers_aligner() -> None:
    assert resources(7_000_000_000)["this aligner"] == {
        "DPO of 7B": 1.125,
        "RLHF of 7B": 2.25,
        "DPO of 70B": 11.25,
        "RLHF of 70B": 22.5,
    }
