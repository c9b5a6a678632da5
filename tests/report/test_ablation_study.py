"""Ablations read back from their small files, with known effects."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from r1jax.ablation.result import Ablation
from r1jax.errors import UserError
from r1jax.report.ablation import write_report
from r1jax.report.ablation_study import axes_table, draw_results, findings, read_axes

LEVEL = np.array([0.2, 0.5, 0.3, 0.6])  # of the seeds, in all arms alike


def write(folder, axes, effects):
    """An ablation whose arms add ``effects`` to the level of each seed, in the files that launch/ablations.sh keeps."""
    (name, values), *others = axes.items()
    arms = tuple({name: value, **{other: options[0] for other, options in others}} for value in values)
    after = {"accuracy": np.array([LEVEL + effect for effect in effects])}
    after["length_mean"] = np.array([[20.0 + i] * 4 for i in range(len(values))])
    metrics = {"reward": np.zeros((*after["accuracy"].shape, 3))}
    about = {"device": "1 x H100", "seconds": 1.0}
    result = Ablation(axes, arms, (0, 1, 2, 3), metrics, {"accuracy": 0 * after["accuracy"]}, after, about)
    folder.mkdir(parents=True)
    write_report(result, folder, "title", Console(quiet=True))
    result.save_table(folder / "results.csv")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    noise = np.array([0.02, -0.03, 0.01, 0.0])
    write(folder / "beta", {"rl.beta": (0, 0.1, 0.2)}, [0, 0.1 + noise, noise])
    write(folder / "std", {"rl.normalise-std": (True, False)}, [0, noise / 10 - 0.1])
    return read_axes(folder, ("std", "none"))


def test_results_are_those_that_were_written_in_the_order_that_is_asked(results):
    assert list(results) == ["std", "beta"]
    beta = results["beta"]
    assert (beta.axis, beta.values, beta.seeds, beta.steps) == ("rl.beta", ("0", "0.1", "0.2"), (0, 1, 2, 3), 3)
    np.testing.assert_allclose(beta.after[0], LEVEL)
    np.testing.assert_allclose(beta.after[1] - beta.after[2], 0.1)
    assert beta.length[:, 0].tolist() == [20, 21, 22] and beta.about["device"] == "1 x H100"


def test_differences_are_paired_by_seed(results):
    """The levels of the seeds differ by 0.4, more than any effect."""
    assert findings(results) == ["rl.normalise-std, against True: False is lower", "rl.beta, against 0: 0.1 is higher"]
    rows = axes_table(results).splitlines()[2:]
    assert [row.split("|")[5].strip() for row in rows] == ["", "lower", "", "higher", "no difference"]
    assert rows[0].split("|")[3].strip().startswith("40.0 [")


def test_panels_have_one_scale_and_those_without_a_result_are_hidden(results):
    panels = Figure().subplots(1, 3)
    draw_results(list(panels), results)
    assert [ax.get_visible() for ax in panels] == [True, True, False]
    assert panels[0].get_ylim() == panels[1].get_ylim()
    assert [label.get_text() for label in panels[1].get_xticklabels()] == ["0\n", "0.1\nhigher", "0.2\nno\ndifference"]


def test_a_folder_without_results_is_empty_and_several_axes_are_refused(tmp_path):
    assert read_axes(tmp_path / "missing") == {}
    write(tmp_path / "two", {"rl.beta": (0, 1), "rl.group": (2,)}, [0, 0])
    with pytest.raises(UserError, match=r"two has the axes rl.beta, rl.group: give ablations of one axis each"):
        read_axes(tmp_path)
