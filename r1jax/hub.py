"""Models and data sets from the Hugging Face hub, through huggingface_hub and its cache.

huggingface_hub reads its environment when it is imported: HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_ENDPOINT.
"""

from __future__ import annotations

import dataclasses
import functools
import glob
import json
import re
import shutil
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from r1jax.errors import UserError
from r1jax.hub_access import OTHER_DISK, RESUME, Repo, check_environment, http_error, one_line, reason

_NAME = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_SNAPSHOT = re.compile(r"(?P<kind>model|dataset)s--(?P<repo>.+)/snapshots/(?P<commit>[0-9a-f]{40})")

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"  # the weights, and the list of their shards
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")  # a model has one of them
# What a model needs besides its weights, if the repository has it.
_SMALL = (
    "config.json",
    "generation_config.json",
    *_TOKENIZERS,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    INDEX,
)


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files of a repository at one commit.

    files: name -> size in bytes, None if unknown.
    folder: if the hub was not reached, the snapshot folder in the cache, which has the files; otherwise None.
    uncached: if the hub was not reached, further files of the commit that the cache knows by name.
    """

    repo: Repo
    commit: str
    files: Mapping[str, int | None]
    folder: Path | None = None
    uncached: frozenset[str] = frozenset()


def parse_name(name: str) -> Repo | None:
    """The model that ORG/NAME[@revision] names; None if ``name`` has another form or is an existing path."""
    match = _NAME.fullmatch(name)
    return Repo(match["repo"], match["revision"]) if match and not Path(name).exists() else None


def has_form_of_name(text: str) -> bool:
    """True for ORG/NAME and ORG/NAME@revision, also if there is a path of this name."""
    return _NAME.fullmatch(text) is not None


def snapshot_commit(path: Path) -> str | None:
    """The commit of a snapshot folder in a cache of the hub; None for other paths."""
    match = _SNAPSHOT.fullmatch("/".join(path.parts[-3:]))
    return match["commit"] if match else None


def describe(path: Path) -> str:
    """ORG/NAME and the start of the commit for a snapshot folder in a cache of the hub, otherwise the path."""
    match = _SNAPSHOT.fullmatch("/".join(path.parts[-3:]))
    return f"{match['repo'].replace('--', '/', 1)} (commit {match['commit'][:12]})" if match else str(path)


@functools.lru_cache(maxsize=32)  # one commit throughout a run, even if the branch moves
def fetch_model(name: str, check: Callable[[Path], object] | None = None) -> Path:
    """The snapshot folder of the model ORG/NAME[@revision], downloaded unless it is cached.

    Only config.json, generation_config.json, the safetensors that are read, and the files of the tokenizer are
    downloaded.

    Args:
      name: ORG/NAME[@revision].
      check: called with the folder before weights are downloaded, when it has the other files.

    Raises:
      UserError: if the model is missing, gated, private, not in a supported format or incomplete, if the hub cannot be
        reached and the model is not cached, or if the disk is full.
    """
    repo = parse_name(name)
    if repo is None:
        raise UserError(f"{name} is not the name of a model on the hub: write ORG/NAME or ORG/NAME@REVISION")
    listing = list_files(repo)
    _check_format(listing)
    folder = fetch(listing, [file for file in _SMALL if file in listing.files])
    weights = _weights(listing, folder)
    if check is not None and not all((folder / file).is_file() for file in weights):
        check(folder)
    return fetch(listing, weights)


def _check_format(listing: Listing) -> None:
    """Raises UserError for a repository that has no weights as safetensors, no config.json, or no tokenizer."""
    files, repo = listing.files, listing.repo
    if "adapter_config.json" in files and "config.json" not in files:
        raise UserError(f"{repo} is an adapter: merge it into its base model and give the folder of the result")
    for needed in (("config.json",), (SINGLE, INDEX), _TOKENIZERS) if listing.folder else ():
        if not {*needed} & set(files):
            raise UserError(f"the cached {repo} is incomplete ({needed[0]} is missing): {RESUME}")
    gguf = sorted(name for name in files if name.endswith(".gguf"))
    if gguf and not {SINGLE, INDEX} & set(files):
        raise UserError(
            f"{repo} has GGUF files: download one with 'hf download {repo.name} {gguf[0]} --local-dir .' and give its "
            "path"
        )
    if "config.json" not in files:
        raise UserError(f"{repo} has no config.json: give a model in the format of transformers")
    if not {SINGLE, INDEX} & set(files):
        other = next((name for name in sorted(files) if name.endswith((".bin", ".pth", ".safetensors"))), "no weights")
        raise UserError(
            f"{repo} has {other} and no {SINGLE}: give a revision that has one, such as {repo.name}@refs/pr/N, or save "
            "the model with transformers and give the folder"
        )
    if not {*_TOKENIZERS} & set(files):
        raise UserError(
            f"{repo} has no tokenizer.json and no tokenizer.model: give another revision, or save the model and its "
            "tokenizer with transformers and give the folder"
        )


def _weights(listing: Listing, folder: Path) -> list[str]:
    """The safetensors files that hold the weights: the single file if there is one, otherwise those of the index."""
    if SINGLE in listing.files:
        return [SINGLE]
    index = folder / INDEX
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if not names:
            raise ValueError("it lists no files")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{index} is damaged ({error!r}): remove the file and run the command again") from error
    if missing := [name for name in names if name not in listing.files]:
        if listing.folder:
            raise UserError(f"the cached {listing.repo} is incomplete ({missing[0]} is missing): {RESUME}")
        raise UserError(f"{listing.repo} has no file {missing[0]}, which its {INDEX} names: give another revision")
    return names


@functools.lru_cache(maxsize=32)
def list_files(repo: Repo) -> Listing:
    """The files of a repository on the hub, or those in the cache, with a warning, if the hub gives no answer.

    Raises:
      UserError: if the hub refuses the repository or cannot be reached, and it is not cached, or if it has no such
        revision.
    """
    check_environment()
    from huggingface_hub import HfApi, constants, errors

    api = HfApi()
    read = api.dataset_info if repo.kind == "dataset" else api.model_info
    with one_line(repo):
        try:
            # Without a timeout, the library waits forever for a server that accepts connections and is silent.
            timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
            info = read(repo.name, revision=repo.revision, files_metadata=True, timeout=timeout)
        except (errors.RevisionNotFoundError, errors.HFValidationError):
            raise
        except UnicodeEncodeError as error:
            raise UserError("the token in HF_TOKEN has characters other than ASCII: copy it again") from error
        # The library raises the last three for an answer in another form, such as the page of a login.
        except (http_error(), OSError, ValueError, LookupError, TypeError) as error:
            cached = _cached(repo)
            if cached is None and isinstance(error, http_error() | OSError):
                raise
            if cached is None:
                raise UserError(
                    f"{constants.ENDPOINT} does not answer as a hub for {repo} ({reason(error)}): check HF_ENDPOINT, "
                    "your proxy and your connection"
                ) from error
            if not isinstance(error, errors.OfflineModeIsEnabled):
                why = reason(error)
                warnings.warn(f"{repo}: commit {cached.commit[:12]} from the cache is used ({why})", stacklevel=1)
            return cached
        sizes = {file.rfilename: file.size for file in info.siblings or ()}
        return Listing(repo, str(info.sha), sizes)


def _cached(repo: Repo) -> Listing | None:
    """The files of a repository that are in the cache; None if there are none."""
    from huggingface_hub import errors, snapshot_download

    try:
        # No pattern: the library would compare the folder with all files of the repository.
        found = snapshot_download(
            repo.name, repo_type=repo.kind, revision=repo.revision, local_files_only=True, allow_patterns=[]
        )
    except errors.LocalEntryNotFoundError:
        return None
    folder = Path(found)
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return Listing(repo, folder.name, files, folder, _known_files(repo) - files.keys()) if files else None


def _known_files(repo: Repo) -> frozenset[str]:
    """The names of all files of a cached commit; none if the cache does not list them."""
    try:
        from huggingface_hub import get_cached_repo_tree  # older versions have none
        from huggingface_hub.errors import CachedRepoTreeNotFoundError
    except ImportError:
        return frozenset()
    try:
        tree = get_cached_repo_tree(repo.name, repo_type=repo.kind, revision=repo.revision)
    except (CachedRepoTreeNotFoundError, OSError, ValueError):
        return frozenset()
    return frozenset(file.path for file in tree)


def fetch(listing: Listing, names: Collection[str]) -> Path:
    """The snapshot folder of a repository with the files ``names``, which are downloaded unless they are cached.

    Raises:
      UserError: if a download fails, or the disk has not enough space.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import tqdm

    class Silent(tqdm):
        """A progress bar that is not shown."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "disable": True})

    if listing.folder:
        return listing.folder
    repo = listing.repo
    with one_line(repo, downloading=True):
        missing = _not_cached(listing, names)
        _check_space(listing, missing)
        folder = Path(
            snapshot_download(
                repo.name,
                repo_type=repo.kind,
                # The branch, not the commit: the cache then knows the commit of the branch when it is offline.
                revision=repo.revision,
                allow_patterns=[glob.escape(name) for name in names],
                tqdm_class=tqdm if missing else Silent,
            )
        )
    if folder.name != listing.commit:
        raise UserError(f"{repo} changed while it was downloaded: run the command again")
    return folder.absolute()


def _not_cached(listing: Listing, names: Collection[str]) -> list[str]:
    from huggingface_hub import try_to_load_from_cache

    repo, commit = listing.repo, listing.commit
    found = {name: try_to_load_from_cache(repo.name, name, revision=commit, repo_type=repo.kind) for name in names}
    return [name for name in names if not isinstance(found[name], str)]


def _check_space(listing: Listing, names: Collection[str]) -> None:
    """Raises UserError if files do not fit on the disk of the cache."""
    from huggingface_hub import constants

    needed = sum(listing.files[name] or 0 for name in names)
    cache = Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(path for path in (cache, *cache.absolute().parents) if path.exists())).free
    if needed > free:
        raise UserError(
            f"{listing.repo} needs {needed / 1e9:.1f} GB and {cache} has {free / 1e9:.1f} GB free: {OTHER_DISK}"
        )
