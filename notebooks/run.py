"""Executes the notebooks of this folder, each in a kernel of its own, and checks the pairs of files.

    python notebooks/run.py                        all notebooks with small settings; results in build/notebooks
    python notebooks/run.py --size full rewards    one notebook in full; writes its outputs to notebooks/rewards.ipynb
    python notebooks/run.py --check                compares the .ipynb files with the .py files; executes nothing

NAME.py in the percent format of jupytext is what people edit and review. NAME.ipynb has the same cells and the outputs
of a full run. The cell with the tag "parameters" holds the settings that differ between the sizes, one in a line, with
the value of the quick size in a comment: ``steps = 60  # quick: 2``.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parent
QUICK_FOLDER = FOLDER.parent / "build" / "notebooks"
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != Path(__file__).stem))

MAX_LINES = 20  # of a code cell
MAX_PICTURE = 40_000  # bytes of a PNG
MAX_NOTEBOOK = 300_000  # bytes of an .ipynb file

_QUICK = re.compile(r"^(?P<name>\w+) = .*?  # quick: (?P<value>.+)$", re.MULTILINE)


def read_cells(path: Path) -> NotebookNode:
    """The notebook of a .py file, without outputs; ids and metadata depend on the file's content alone."""
    notebook = jupytext.read(path)
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i}"
        cell.metadata = nbformat.from_dict({name: value for name, value in cell.metadata.items() if name == "tags"})
    notebook.metadata = nbformat.from_dict(
        {
            "jupytext": {"formats": "ipynb,py:percent"},
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    return notebook


def with_quick_values(notebook: NotebookNode) -> NotebookNode:
    """The notebook with the quick values of its settings; raises ValueError if the cell of the settings is missing."""
    found = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    if len(found) != 1 or found[0] is not next(cell for cell in notebook.cells if cell.cell_type == "code"):
        raise ValueError('the first code cell, and no other, must have the tag "parameters"')
    found[0].source = _QUICK.sub(r"\g<name> = \g<value>", found[0].source)
    return notebook


def execute(notebook: NotebookNode) -> NotebookNode:
    """The notebook with the outputs of a run in the folder of the notebooks, without stderr and without times.

    Progress and warnings go to stderr, which differs from run to run. Raises CellExecutionError if a cell fails.
    """
    with tempfile.TemporaryDirectory() as settings:  # the user's settings of IPython are not read
        client = NotebookClient(
            notebook,
            timeout=None,
            kernel_name="python3",
            record_timing=False,
            extra_arguments=["--log-level=ERROR"],
            resources={"metadata": {"path": str(FOLDER)}},
        )
        client.execute(env={**os.environ, "IPYTHONDIR": settings})
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def problems_of(source: NotebookNode, kept: NotebookNode, size: int) -> Iterator[str]:
    """What is wrong with a pair of files: the cells of the .py file, the .ipynb file, and the bytes of the latter."""
    if [(a.cell_type, a.source) for a in source.cells] != [(b.cell_type, b.source) for b in kept.cells]:
        yield "the cells of the .ipynb file are not those of the .py file"
    if size > MAX_NOTEBOOK:
        yield f"{size:,} bytes: at most {MAX_NOTEBOOK:,}"
    code = [(i, cell) for i, cell in enumerate(kept.cells) if cell.cell_type == "code"]
    if not any(cell.outputs for _, cell in code):
        yield "no cell has an output"
    for i, cell in code:
        if (lines := cell.source.count("\n") + 1) > MAX_LINES:
            yield f"cell {i} has {lines} lines: at most {MAX_LINES}"
        if cell.execution_count is None:
            yield f"cell {i} was not executed"
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"cell {i} has the output of an error"
            picture = len(output.get("data", {}).get("image/png", "")) * 3 // 4  # base64
            if picture > MAX_PICTURE:
                yield f"cell {i} has a picture of {picture:,} bytes: at most {MAX_PICTURE:,}"


def check(name: str, folder: Path = FOLDER) -> list[str]:
    """A line for each thing that is wrong with NAME.py and NAME.ipynb."""
    path = folder / f"{name}.ipynb"
    if not path.exists():
        return [f"{path.name} does not exist"]
    kept = nbformat.read(path, as_version=4)
    return list(problems_of(read_cells(folder / f"{name}.py"), kept, path.stat().st_size))


def failed_cell(notebook: NotebookNode, error: CellExecutionError) -> str:
    """The cell that failed, with its number and the error, without the traceback."""
    at = next(
        i
        for i, cell in enumerate(notebook.cells)
        if any(output.output_type == "error" for output in cell.get("outputs", ()))
    )
    return f"cell {at} raises {error.ename}: {error.evalue}\n\n{notebook.cells[at].source}\n"


def run(name: str, size: str) -> str | None:
    """Executes a notebook and writes its .ipynb file; returns a text if a cell fails, and writes nothing then."""
    notebook = read_cells(FOLDER / f"{name}.py")
    if size == "quick":
        notebook = with_quick_values(notebook)
    try:
        notebook = execute(notebook)
    except CellExecutionError as error:
        return failed_cell(notebook, error)
    except DeadKernelError:
        return "the process of the notebook was killed, perhaps for lack of memory"
    folder = FOLDER if size == "full" else QUICK_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")
    return None


def main() -> int:
    """The exit status: 1 if a cell fails, or if a pair of files is not in order."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"notebooks to execute, by default all: {NAMES}")
    parser.add_argument("--size", choices=("quick", "full"), default="quick", help="full replaces the .ipynb files")
    parser.add_argument("--check", action="store_true", help="execute nothing")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in NAMES:
            parser.error(f"no notebook {name}: choose from {', '.join(NAMES)}")
    wrong = False
    for name in arguments.names or NAMES:
        began = time.monotonic()
        failure = None if arguments.check else run(name, arguments.size)
        lines = [failure] if failure else check(name)
        print(f"{name}: {'not in order' if lines else 'ok'}, {time.monotonic() - began:.0f} s", flush=True)
        for line in lines:
            print(f"{name}: {line}", file=sys.stderr, flush=True)
        wrong = wrong or bool(lines)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
