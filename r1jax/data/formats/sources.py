"""Where rows come from: a file, a folder of shards, or a data set of the hub.

A source is written as

    FILE                                   .jsonl, .json, .csv, .tsv or .parquet, also with .gz
    FOLDER[:CONFIG][/SPLIT]                a folder of such files
    hf:ORG/NAME[@REVISION][:CONFIG][/SPLIT]  a data set of the hub
    hf:ORG/NAME[@REVISION]/FILE            one of its files

Without SPLIT, it is the split train, or the only one.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Collection
from pathlib import Path

from r1jax import hub
from r1jax.data.formats.layout import CARD, choose_files, find_configs
from r1jax.data.formats.readers import FORMATS, SUFFIXES
from r1jax.errors import UserError
from r1jax.hub_access import RESUME

HUB = "hf:"

_HUB = re.compile(
    r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>refs/[\w-]+/[\w.-]+|[\w.-]+))?"
    r"(?::(?P<config>[^/:]+))?(?:/(?P<split>.+))?",
    re.ASCII,
)
_PART = re.compile(r"(?P<root>.+?)(?::(?P<config>[^/:]+))?(?:/(?P<split>[^/:]+))?")


@dataclasses.dataclass(frozen=True)
class DataFile:
    """A data file. shown: its name in error messages."""

    path: Path
    shown: str


def is_source(text: str) -> bool:
    """True for text that names a data file, a folder, a split of a folder, or a data set of the hub."""
    return text.startswith(HUB) or text.lower().endswith(SUFFIXES) or _folder(text) is not None


def has_splits(text: str) -> bool:
    """True for text that names a folder or a data set of the hub, which may have several splits."""
    return text.startswith(HUB) or _folder(text) is not None


def data_files(source: str | Path) -> tuple[DataFile, ...]:
    """The files of a source, in the order in which they are read; a data set of the hub is downloaded first.

    Raises UserError if the source does not exist, if its config or split does not exist or has to be chosen, or as
    hub.fetch.
    """
    text = str(source)
    if text.startswith(HUB):
        return _hub_files(text)
    path = Path(text).expanduser()
    if path.is_file():
        return (DataFile(path, str(path)),)
    folder = _folder(text)
    if folder is None:
        what = f"{source} is not a regular file" if path.exists() else f"no file {source}"
        raise UserError(f"{what}: check the path")
    root, config, split = folder
    names = [file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()]
    chosen = _chosen(names, root, config, split, str(root))
    return tuple(DataFile(root / name, str(root / name)) for name in chosen)


def origin(source: str) -> Path:
    """The path whose contents decide the rows of a source: its file, its folder, or the snapshot of the data set.

    Raises UserError as data_files.
    """
    if source.startswith(HUB):
        files = data_files(source)
        return next(path for path in files[0].path.parents if hub.snapshot_commit(path))
    folder = _folder(source)
    return folder[0] if folder else Path(source).expanduser()


def part_of_origin(source: str) -> str:
    """The source if it names a part of its origin, such as a split or a data set of the hub; "" if it is its origin.

    A stage has the origin as an input, whose contents are hashed, and this text as a setting. Raises UserError as
    data_files.
    """
    return "" if origin(source) == Path(source).expanduser() else source


def with_split(source: str, split: str) -> str:
    """The same data set with another split. Raises UserError for a file, which has no splits."""
    parsed = _data_set(source) if source.startswith(HUB) else _folder(source)
    if parsed is None:
        raise UserError(
            f"{source} is a file and has no split {split!r}: give the path of a file with held-out problems"
        )
    root, config, _ = parsed
    return f"{root}{f':{config}' if config else ''}/{split}"


def _folder(text: str) -> tuple[Path, str | None, str | None] | None:
    """The folder, config and split that FOLDER[:CONFIG][/SPLIT] names; None if there is no such folder."""
    if not text:
        return None  # Path("") is the working directory
    path = Path(text).expanduser()
    if path.is_dir():
        return path, None, None
    match = _PART.fullmatch(text)
    if path.exists() or match is None or text.lower().endswith(SUFFIXES):
        return None
    root = Path(match["root"]).expanduser()
    return (root, match["config"], match["split"]) if root.is_dir() else None


def _data_set(text: str) -> tuple[hub.Repo, str | None, str | None]:
    """The data set of the hub, config, and split or file that a source names."""
    match = _HUB.fullmatch(text)
    if match is None:
        raise UserError(f"{text}: write hf:ORG/NAME, hf:ORG/NAME/SPLIT or hf:ORG/NAME:CONFIG/SPLIT")
    return hub.Repo(match["repo"], match["revision"], "dataset"), match["config"], match["split"]


@functools.lru_cache(maxsize=64)  # checks, stages and readers ask for the same few
def _hub_files(text: str) -> tuple[DataFile, ...]:
    repo, config, split = _data_set(text)
    listing = hub.list_files(repo)
    if split and split in listing.files:
        chosen = [split]
    else:
        folder = hub.fetch(listing, [CARD]) if CARD in listing.files else None
        try:
            chosen = _chosen(listing.files, folder, config, split, str(repo))
        except UserError as error:
            if listing.folder is None:
                raise
            raise UserError(f"{error} (in the cache; the hub was not reached)") from error
        _check_whole(listing, chosen, folder, config, split)
    snapshot = hub.fetch(listing, chosen)
    return tuple(DataFile(snapshot / name, f"{repo}/{name}") for name in chosen)


def _check_whole(
    listing: hub.Listing, chosen: list[str], folder: Path | None, config: str | None, split: str | None
) -> None:
    """Raises UserError if the cache has only a part of a split, because its download was interrupted."""
    if not listing.uncached:
        return
    try:
        whole = _chosen({*listing.files, *listing.uncached}, folder, config, split, str(listing.repo))
    except UserError:
        return  # the cached files are of one config, and there are others
    missing = [name for name in whole if name in listing.uncached]
    if missing and {*chosen} & {*whole}:
        raise UserError(f"the cached {listing.repo} is incomplete ({missing[0]} is missing): {RESUME}")


def _chosen(
    names: Collection[str], folder: Path | None, config: str | None, split: str | None, shown: str
) -> list[str]:
    """The files of a config and a split among ``names``. folder: where README.md is, if there is one."""
    card = folder / CARD if folder else None
    text = card.read_text(encoding="utf-8", errors="replace") if card and card.is_file() else None
    configs, default = find_configs(names, text)
    if configs:
        return choose_files(configs, default, config, split, shown)
    found = sorted(name for name in names if not name.startswith("."))
    if not found:
        raise UserError(f"{shown} is empty: give a folder with data files")
    if any(name.endswith(".arrow") for name in found):
        advice = "save it with to_parquet instead of save_to_disk"
    elif shown.startswith(HUB) and any(name.endswith(".py") for name in found):
        advice = f"its script is not executed, but {shown.partition('@')[0]}@refs/convert/parquet may have the rows"
    else:
        advice = f"{', '.join(FORMATS)} are read"
    raise UserError(f"{shown} has {found[0]} and no data files: {advice}")
