import pytest

from aligner_jobs.train.paper_resources import METHODS, times_an_aligner


@pytest.mark.parametrize(
    ("method", "upstream", "times"),
    [("DPO", 7e9, 1.125), ("RLHF", 7e9, 2.25), ("DPO", 70e9, 11.25), ("RLHF", 70e9, 22.5)],
)
def test_the_papers_figures_come_out_of_its_formula(
    method: str, upstream: float, times: float
) -> None:
    assert times_an_aligner(METHODS[method], upstream=upstream, aligner=7e9) == times
