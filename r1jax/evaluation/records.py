"""The file of judged completions of a task, which is appended to and read again on resume."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from r1jax.disk import write_whole
from r1jax.errors import UserError

FILE = "completions.jsonl"


@dataclasses.dataclass(frozen=True)
class Record:
    """A judged completion, one line of the file.

    problem, sample: the place of the problem in the task, and the number of the sample, both from 0 on.
    completion: the assistant's whole text. answer: what was read from it; None if nothing was.
    correct: True if the checker gives the full score. score: the score itself, for tasks that give partial credit.
    well_formed: True if the answer has the form that the prompt asks for.
    tokens: of the completion; None if an endpoint does not count them. finished: False if the limit cut it.
    surprisal: the sum of -log q over the tokens in nats, q being the distribution that they were drawn from; None for
      an endpoint.
    """

    problem: int
    sample: int
    completion: str
    answer: str | None
    correct: bool
    score: float
    well_formed: bool
    tokens: int | None
    finished: bool
    surprisal: float | None = None

    @property
    def place(self) -> tuple[int, int]:
        """(problem, sample)."""
        return self.problem, self.sample


def read_records(path: Path) -> list[Record]:
    """The records of a file, in its order; a line that a kill has cut is removed from the file.

    Raises UserError if another line is damaged, or a place appears twice.
    """
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    records: list[Record] = []
    for number, line in enumerate(whole.decode("utf-8", "replace").split("\n")[:-1], start=1):
        try:
            records.append(Record(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}, line {number} is damaged: remove the file to sample its task again") from error
    if len({record.place for record in records}) < len(records):
        raise UserError(f"{path} holds a sample twice: remove the file to sample its task again")
    return records


def append_records(path: Path, records: Iterable[Record]) -> None:
    """Appends records, in one write that is on disk when the function returns."""
    text = "".join(_line(record) for record in records)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sort_records(path: Path, records: Sequence[Record]) -> list[Record]:
    """The records in the order of problems and samples; the file is replaced if its order is another one."""
    ordered = sorted(records, key=lambda record: record.place)
    if ordered != list(records):
        write_whole(path, "".join(map(_line, ordered)))
    return ordered


def _line(record: Record) -> str:
    return json.dumps(dataclasses.asdict(record), ensure_ascii=False) + "\n"
