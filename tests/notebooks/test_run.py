"""The runner of the notebooks, and the pairs of files in notebooks/."""

import re

import nbformat
import pytest

from notebooks import run

SOURCE = """# %% [markdown]
# # A title

# %% tags=["parameters"]
steps = 60  # quick: 2
folder = "../runs"  # quick: "../build"
group = 6

# %%
print(steps * group, folder)

# %%
raise SystemError("no such thing")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "FOLDER", tmp_path)
    monkeypatch.setattr(run, "QUICK_FOLDER", tmp_path / "build")
    return tmp_path


def write(folder, source, name="one"):
    (folder / f"{name}.py").write_text(source)


def outputs(path):
    return [cell.outputs for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("name", run.NAMES)
def test_a_committed_notebook_has_the_cells_of_its_source_and_outputs_of_a_run(name):
    assert run.check(name) == []


@pytest.mark.parametrize("name", run.NAMES)
def test_a_committed_notebook_names_no_machine_and_no_time(name):
    text = (run.FOLDER / f"{name}.ipynb").read_text()
    assert not re.search(r"/home/|/root/|/Users/|/tmp/|\bobject at 0x", text)
    notebook = nbformat.reads(text, as_version=4)
    assert set(notebook.metadata) == {"jupytext", "kernelspec", "language_info"}
    assert all(not set(cell.metadata) - {"tags"} for cell in notebook.cells)


@pytest.mark.parametrize("name", run.NAMES)
def test_a_notebook_says_how_long_it_takes_and_has_a_cell_of_settings(name):
    notebook = run.read_cells(run.FOLDER / f"{name}.py")
    opening = notebook.cells[0].source
    assert re.search("minute|second", opening) and re.search("CPU|GPU", opening) and re.search("size", opening)
    run.with_quick_values(notebook)


def test_both_sizes_are_executed_and_a_failing_cell_is_named(folder):
    write(folder, SOURCE.rpartition("# %%")[0])
    assert run.run("one", "quick") is None and not (folder / "one.ipynb").exists()
    assert [one.text for one in outputs(folder / "build" / "one.ipynb")[1]] == ["12 ../build\n"]
    assert run.run("one", "full") is None and run.check("one", folder) == []
    assert [one.text for one in outputs(folder / "one.ipynb")[1]] == ["360 ../runs\n"]
    kept = (folder / "one.ipynb").read_text()
    write(folder, SOURCE)
    failure = run.run("one", "full")
    assert failure == 'cell 3 raises SystemError: no such thing\n\nraise SystemError("no such thing")\n'
    assert (folder / "one.ipynb").read_text() == kept
    assert run.check("one", folder) == ["the cells of the .ipynb file are not those of the .py file"]


def test_a_notebook_needs_exactly_one_first_cell_of_settings(folder):
    write(folder, SOURCE.replace(' tags=["parameters"]', ""))
    with pytest.raises(ValueError, match="first code cell"):
        run.with_quick_values(run.read_cells(folder / "one.py"))


def test_faults_of_an_ipynb_file_are_listed(folder):
    write(folder, "# %%\n" + "x = 1\n" * 21)
    assert run.check("one", folder) == ["one.ipynb does not exist"]
    source, kept = (run.read_cells(folder / "one.py") for _ in range(2))
    faults = list(run.problems_of(source, kept, size=400_000))
    assert faults == [
        "400,000 bytes: at most 300,000",
        "no cell has an output",
        "cell 0 has 21 lines: at most 20",
        "cell 0 was not executed",
    ]
    kept.cells[0].execution_count = 1
    kept.cells[0].outputs = [
        nbformat.v4.new_output("error", ename="E", evalue="", traceback=[]),
        nbformat.v4.new_output("display_data", data={"image/png": "A" * 80_000}),
    ]
    assert list(run.problems_of(source, kept, size=1))[1:] == [
        "cell 0 has the output of an error",
        "cell 0 has a picture of 60,000 bytes: at most 40,000",
    ]
