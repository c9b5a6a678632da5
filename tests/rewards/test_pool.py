"""The reward pool with rewards that hang, raise, return wrong values or crash."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from r1jax.rewards.base import RewardError
from r1jax.rewards.config import parse_rewards
from r1jax.rewards.pool import RewardPool
from r1jax.rewards.progress import Progress
from tests.rewards.helpers import ACTOR, act, completion, gone, make_pool, meeting, problem


@pytest.fixture(scope="module")
def pool(actor_file: str) -> Iterator[RewardPool]:
    """A pool for tests in which nothing hangs."""
    with make_pool(actor_file, deadline=60) as pool:
        yield pool


@pytest.fixture(scope="module")
def hasty(actor_file: str) -> Iterator[RewardPool]:
    """A pool with a short deadline, for tests in which something hangs."""
    with make_pool(actor_file, deadline=1.0) as pool:
        yield pool


def test_values_come_in_order_with_names_and_weights(pool: RewardPool) -> None:
    numbers = np.random.default_rng(0).permutation(500)
    problems = [problem(str(n)) for n in numbers]
    # Some take longer, so that the results arrive out of order.
    scores = pool.score(problems, [completion(f"answer {0.02 * (i % 25 == 0)}") for i in range(500)])
    np.testing.assert_array_equal(scores.values, np.stack([numbers, np.full(500, -0.25)], axis=1))
    assert scores.values.dtype == scores.total.dtype == np.float32
    np.testing.assert_allclose(scores.total, 2 * numbers - 0.125)
    assert scores.names == ("actor", "length")
    assert (scores.timeouts, scores.crashes) == (0, 0)


def test_no_completions_give_no_scores(pool: RewardPool) -> None:
    scores = pool.score([], [])
    assert scores.values.shape == (0, 2) and scores.total.shape == (0,)


def test_both_workers_work(pool: RewardPool, tmp_path: Path) -> None:
    a, b = act(pool, *meeting(tmp_path)).values[:, 0]
    assert a > 0 and b > 0 and a != b


@pytest.mark.parametrize("text", ["loop", "sleep", "stubborn", "regex"])
def test_a_reward_that_hangs_scores_zero_and_is_counted(hasty: RewardPool, text: str) -> None:
    start = time.monotonic()
    scores = act(hasty, "value 1", text, "value 3", text, "value 5")
    assert time.monotonic() - start < 60
    np.testing.assert_array_equal(scores.values[:, 0], [1, 0, 3, 0, 5])
    np.testing.assert_allclose(scores.total, [1.875, 0, 5.875, 0, 9.875])
    assert (scores.timeouts, scores.crashes) == (2, 0)


def test_an_item_that_is_lost_in_a_list_costs_no_other_item(hasty: RewardPool) -> None:
    """With 100 items, workers get several at once: the ones before and after the lost item keep their values."""
    texts = [f"value {i}" for i in range(100)]
    texts[3], texts[20], texts[57], texts[99] = "sleep", "die", "regex", "loop"
    scores = act(hasty, *texts)
    want = [0 if i in (3, 20, 57, 99) else i for i in range(100)]
    np.testing.assert_array_equal(scores.values[:, 0], want)
    assert (scores.timeouts, scores.crashes) == (3, 1)


def test_a_completion_that_several_samples_share_is_computed_once_and_counts_for_each(
    hasty: RewardPool, tmp_path: Path
) -> None:
    asked, log = problem("1"), tmp_path / "log"
    hangs, writes = completion("sleep"), completion(f"return open('{log}','a').write('a')")
    scores = hasty.score([asked] * 6, [hangs, writes, hangs, writes, hangs, completion("value 7")])
    np.testing.assert_array_equal(scores.values[:, 0], [0, 1, 0, 1, 0, 7])
    assert (scores.timeouts, scores.crashes) == (3, 0) and log.read_text() == "a"
    shared, apart = completion("answer 0"), [problem("1"), problem("2")]  # the problem decides, too
    assert hasty.score(apart, [shared, shared]).values[:, 0].tolist() == [1, 2]


def test_the_deadline_applies_to_each_item_of_a_list(hasty: RewardPool) -> None:
    """Items of one list take longer together than a deadline, and each but one takes less."""
    began = time.monotonic()
    scores = act(hasty, *(f"sleep 0.3{i}" for i in range(16)), "loop", *(f"value {i}" for i in range(16)))
    assert scores.timeouts == 1 and scores.values[:16, 0].all() and time.monotonic() - began < 30


def test_an_item_that_ends_just_after_its_deadline_takes_no_time_from_the_next_one(
    hasty: RewardPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent looks at the clock, and the item ends before the parent has read the values."""
    looked = Progress.started_at

    def slow(self: Progress, item: int) -> float:
        began = looked(self, item)
        while began and time.monotonic() > began + 1.0 and not self.ended_at(item):
            time.sleep(0.01)
        return began

    monkeypatch.setattr(Progress, "started_at", slow)
    texts = ["sleep 1.3", "sleep 0.5", *(f"value {i}" for i in range(2, 12))]
    scores = act(hasty, *texts)
    np.testing.assert_array_equal(scores.values[:, 0], range(12))
    assert (scores.timeouts, scores.crashes) == (1, 0)


@pytest.mark.parametrize("text", ["die", "segfault"])
def test_a_reward_that_kills_its_worker_scores_zero_and_is_counted(pool: RewardPool, text: str) -> None:
    scores = act(pool, "value 1", text, "value 3", text, "value 5")
    np.testing.assert_array_equal(scores.values[:, 0], [1, 0, 3, 0, 5])
    assert (scores.timeouts, scores.crashes) == (0, 2)


def test_the_deadline_applies_to_each_item(hasty: RewardPool) -> None:
    scores = act(hasty, *(f"sleep 0.25{i}" for i in range(10)))  # 1.25 s for each worker
    assert scores.timeouts == 0 and scores.values[:, 0].all()


def test_the_deadline_does_not_include_start_and_imports(tmp_path: Path) -> None:
    path = tmp_path / "slow.py"
    path.write_text(f"import time\ntime.sleep(1.2)\n{ACTOR}")
    specs = parse_rewards([f"{path}:actor", "accuracy"])
    with RewardPool(specs, 1, 1.0) as pool:
        # On a busy machine, importing the checker's library takes longer than the deadline.
        scores = pool.score([problem("85", "math")], [completion("<answer>85.0</answer>")])
    assert scores.timeouts == 0
    np.testing.assert_array_equal(scores.values, [[1, 1]])


def test_processes_that_a_reward_started_end_with_it(hasty: RewardPool, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    assert act(hasty, f"child {file}").timeouts == 1
    assert gone(int(file.read_text()))


def test_a_reward_that_raises_is_named(pool: RewardPool, actor_file: str, tmp_path: Path) -> None:
    with pytest.raises(RewardError) as error:
        act(pool, "value 1", "raise", "loop")
    message = str(error.value)
    assert f"{actor_file}:actor" in message and "37 + 48" in message and "KeyError" in message and "line 3" in message
    assert "\n" not in message
    assert "Traceback" in "".join(error.value.__notes__)
    assert act(pool, *meeting(tmp_path)).values[:, 0].all()  # both workers still work


def test_a_reward_that_exits_is_an_error_and_not_a_crash(pool: RewardPool) -> None:
    with pytest.raises(RewardError, match="SystemExit"):
        act(pool, "exit")


@pytest.mark.parametrize(
    "value",
    ["float('nan')", "float('-inf')", "1e39", "10**400", "None", "'1'", "1j", "[1.0]", "np.ones(1)", "np.ones((2,2))"],
)
def test_anything_but_one_finite_number_is_refused(pool: RewardPool, value: str) -> None:
    with pytest.raises(RewardError, match=r"actor returned .*, not one finite number"):
        act(pool, f"return {value}")


@pytest.mark.parametrize("value", ["True", "1", "np.float16(1)", "np.bool_(True)", "np.array(1.0)"])
def test_every_kind_of_scalar_is_accepted(pool: RewardPool, value: str) -> None:
    assert act(pool, f"return {value}").values[0, 0] == 1


def test_any_thread_may_score(pool: RewardPool) -> None:
    results: dict[int, list[float]] = {}

    def work(k: int) -> None:
        results[k] = act(pool, *(f"value {100 * k + i}" for i in range(20))).values[:, 0].tolist()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {k: [100 * k + i for i in range(20)] for k in range(3)}


def test_a_worker_that_cannot_load_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "moody.py"
    path.write_text(ACTOR)
    specs = parse_rewards([f"{path}:actor"])
    path.write_text("import no_such_module")
    with RewardPool(specs, 1, 5.0) as pool:
        for score in (lambda: pool.check([problem("1")], ["1"]), lambda: act(pool, "value 1")):  # the same reason twice
            with pytest.raises(RewardError, match=r"moody\.py, line 1: ModuleNotFoundError"):
                score()
    path.write_text("import os\nos._exit(1)")
    with RewardPool(specs, 1, 5.0) as pool, pytest.raises(RewardError, match="ended or hung while it loaded"):
        act(pool, "value 1")
