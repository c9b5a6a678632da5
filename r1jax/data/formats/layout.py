"""Which files of a folder belong to which config and split of a data set, by README.md or by their names.

The conventions are those of the hub (https://huggingface.co/docs/hub/datasets-data-files-configuration): ``configs`` in
the header of README.md; otherwise names such as data/train-00000-of-00002.parquet, main/test-00000-of-00001.parquet,
train/part-1.jsonl and gsm8k_train.jsonl.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from r1jax.data.formats.readers import FORMATS, SUFFIXES, data_format
from r1jax.errors import UserError

CARD = "README.md"
DEFAULT = "default"  # the name of a config without a name

Splits = dict[str, list[str]]  # split -> files

_ALIASES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLITS = {alias: name for name, aliases in _ALIASES.items() for alias in aliases}
_SHARD = re.compile(r"(?P<name>.+?)-(?P<number>\d{5})-of-(?P<count>\d{5})")
_HEADER = re.compile(r"\ufeff?---\s*\n(.*?)\n---\s*(\n|\Z)", re.DOTALL)
_NOT_DATA = {"dataset_infos.json", "dataset_info.json", "state.json", "config.json"}


def is_data(name: str) -> bool:
    """True for the name of a data file, relative to the folder; hidden files and descriptions of data sets are none."""
    path = PurePosixPath(name)
    hidden = any(part.startswith((".", "_")) for part in path.parts)
    return name.lower().endswith(SUFFIXES) and not hidden and path.name not in _NOT_DATA


def find_configs(names: Collection[str], card: str | None) -> tuple[dict[str, Splits], str | None]:
    """Config -> split -> files in their order, and the default config or None.

    names: of all files, relative to the folder. card: the text of README.md.
    """
    files = sorted(filter(is_data, names), key=_natural)
    declared = _declared(files, card) if card else None
    if declared and any(declared[0].values()):
        return declared
    configs: dict[str, list[str]] = {}
    for name in files:
        configs.setdefault(_config_of(name), []).append(name)
    return {config: _by_name(its) for config, its in configs.items()}, None


def choose_files(
    configs: Mapping[str, Splits], default: str | None, config: str | None, split: str | None, shown: str
) -> list[str]:
    """The files of a config and a split; the only ones, or the default config and the split train, if None is given.

    shown: the name of the data set in error messages.

    Raises UserError, which lists what there is, if there is no such config or split, if one has to be chosen, or if a
    shard is missing.
    """
    if config is None:
        config = default or (DEFAULT if DEFAULT in configs else None)
        if config is None and len(configs) > 1:
            first = next(iter(configs))
            raise UserError(f"{shown} has the configs {_listed(configs)}: choose one, as in {shown}:{first}")
        config = config or next(iter(configs))
        with_config = shown
    else:
        with_config = f"{shown}:{config}"
    if config not in configs:
        has = f"the configs {_listed(configs)}" if set(configs) != {DEFAULT} else "no configs"
        raise UserError(f"{shown} has no config {config!r}: it has {has}")
    splits = configs[config]
    if split is None:
        if "train" not in splits and len(splits) > 1:
            first = next(iter(splits))
            raise UserError(f"{with_config} has the splits {_listed(splits)}: choose one, as in {with_config}/{first}")
        split = "train" if "train" in splits else next(iter(splits))
    if split not in splits:
        raise UserError(f"{with_config} has no split {split!r}: it has {_listed(splits)}")
    files = _one_format(splits[split], with_config)
    _check_shards(files, shown)
    return files


def _listed(names: Collection[str]) -> str:
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return ", ".join([*names][:12]) + more


def _check_shards(files: Sequence[str], shown: str) -> None:
    """Raises UserError if a file such as train-00001-of-00002.parquet is missing among the others."""
    for name in files:
        if match := _SHARD.search(name):
            for i in range(int(match["count"])):
                shard = f"{name[: match.start('number')]}{i:05d}{name[match.end('number') :]}"
                if shard not in files:
                    raise UserError(f"{shown} is incomplete, {shard} is missing: download it again")


def _natural(name: str) -> list[tuple[int, int | str]]:
    """A sort key that orders part-2 before part-10."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts if part]


def _stem(name: str) -> str:
    file = PurePosixPath(name).name
    return file[: len(file) - len(next(suffix for suffix in SUFFIXES[::-1] if file.lower().endswith(suffix)))]


def _split_of(name: str) -> str | None:
    """The split in the name of a file or of one of its folders; None if there is none."""
    stem = _stem(name)
    if match := _SHARD.fullmatch(stem):
        return _SPLITS.get(match["name"], match["name"])
    words = [_SPLITS[word] for word in re.split(r"[^a-z]+", stem.lower()) if word in _SPLITS]
    folders = [_SPLITS[part.lower()] for part in PurePosixPath(name).parts[:-1] if part.lower() in _SPLITS]
    return next(iter((*words, *folders)), None)


def _config_of(name: str) -> str:
    """The config of a file: its folders before that of the split, without data."""
    folders = []
    for part in PurePosixPath(name).parts[:-1]:
        if part.lower() in _SPLITS:
            break
        if part != "data":
            folders.append(part)
    return "-".join(folders) or DEFAULT


def _by_name(files: Sequence[str]) -> Splits:
    """The splits of a config. Without a split in any name all files are train; otherwise the other files are apart."""
    found = {name: _split_of(name) for name in files}
    splits: Splits = {}
    for name, split in found.items():
        other = _stem(name) if any(found.values()) else "train"
        splits.setdefault(split or other, []).append(name)
    return splits


def _one_format(files: Sequence[str], shown: str) -> list[str]:
    """The files of the first of FORMATS that is among them; others usually hold the same rows under the same name.

    Warns about files under other names.
    """
    formats = {name: FORMATS.index(data_format(name)) for name in files}
    chosen = [name for name in files if formats[name] == min(formats.values())]
    stems = {_SHARD.sub(r"\g<name>", _stem(name)) for name in chosen}
    if others := [name for name in files if name not in chosen and _SHARD.sub(r"\g<name>", _stem(name)) not in stems]:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        warnings.warn(
            f"{shown}: {others[0]}{more} is not read, because {chosen[0]} has another format: convert it, or move it",
            stacklevel=1,
        )
    return chosen


def _declared(files: Sequence[str], card: str) -> tuple[dict[str, Splits], str | None] | None:
    """The configs that the header of README.md declares, and the default one; None if it declares none."""
    import yaml

    header = _HEADER.match(card)
    try:
        entries = (yaml.safe_load(header[1]) or {}).get("configs") if header else None
        if not entries:
            return None
        configs = {str(entry.get("config_name", DEFAULT)): _declared_splits(entry, files) for entry in entries}
        default = next((str(entry.get("config_name", DEFAULT)) for entry in entries if entry.get("default")), None)
    except (yaml.YAMLError, AttributeError, TypeError, KeyError):
        return None  # a header in another form declares nothing
    return {name: splits for name, splits in configs.items() if splits}, default


def _declared_splits(entry: Mapping[str, Any], files: Sequence[str]) -> Splits:
    folder = str(entry.get("data_dir", "")).strip("./")
    inside = [name for name in files if not folder or name.startswith(f"{folder}/")]
    given = entry.get("data_files")
    if given is None:
        return _by_name(inside)
    items = [given] if isinstance(given, str) else given
    splits: Splits = {}
    for item in items:
        split, paths = ("train", item) if isinstance(item, str) else (str(item["split"]), item["path"])
        for path in [paths] if isinstance(paths, str) else paths:
            pattern = _pattern(f"{folder}/{path}" if folder else path)
            splits.setdefault(split, []).extend(name for name in inside if pattern.fullmatch(name))
    return {split: list(dict.fromkeys(its)) for split, its in splits.items() if its}


def _pattern(path: str) -> re.Pattern[str]:
    """The regular expression of a path with *, **, ? and [...]; a path that ends with / or names a folder has all."""
    tokens = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]*\])", path.removeprefix("./"))
    special = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(special.get(t, t if t.startswith("[") else re.escape(t)) for t in tokens) + "(?:/.*)?")
