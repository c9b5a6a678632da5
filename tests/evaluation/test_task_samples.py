from __future__ import annotations

import pytest

from r1jax.data.problems.problem import Problem
from r1jax.evaluation.task_samples import parts, sequence_id


def test_the_id_of_a_sample_depends_on_the_problem_and_its_number_alone() -> None:
    problems = [Problem(f"question {i}", "1", "k") for i in range(200)]
    ids = {(i, j): sequence_id(problem, j) for i, problem in enumerate(problems) for j in (0, 1, 63, 999)}
    assert all(0 <= one < 2**31 for one in ids.values())
    assert len(set(ids.values())) > 790  # two problems may share one, seldom
    assert sequence_id(Problem("question 7", "1", "another kind"), 63) == ids[7, 63]
    for i in range(200):
        assert len({ids[i, j] for j in (0, 1, 63, 999)}) == 4


@pytest.mark.parametrize(
    ("problems", "samples", "batch", "devices"),
    [(1319, 1, 512, 1), (30, 64, 512, 1), (30, 64, 512, 8), (3, 4, 512, 8), (5, 1000, 512, 1), (7, 1, 3, 2)],
)
def test_parts_have_one_size_that_the_devices_divide_and_hold_each_problem_once(
    problems, samples, batch, devices
) -> None:
    found = parts(problems, samples, batch, devices)
    (size,) = {len(part) for part in found}
    assert size % devices == 0
    flat = [at for part in found for at in part]
    assert flat[:problems] == list(range(problems))
    assert len(flat) - problems < size
    assert (size - devices + 1) * samples <= max(batch, samples)
