"""Models and data sets from the Hugging Face hub, through huggingface_hub and its cache.

huggingface_hub reads its environment when it is imported: HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_ENDPOINT.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import glob
import json
import re
import shutil
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from r1jax.errors import UserError

_NAME = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_SNAPSHOT = re.compile(r"(?P<kind>model|dataset)s--(?P<repo>.+)/snapshots/(?P<commit>[0-9a-f]{40})")

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"  # the weights, and the list of their shards
# What a model needs besides its weights, if the repository has it.
_SMALL = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    INDEX,
)
_RESUME = "connect to the hub and run the command again, which resumes the download"
_OTHER_DISK = "free disk space, or set HF_HOME to a folder on another disk"


@dataclasses.dataclass(frozen=True)
class Repo:
    """A repository of the hub. revision: a branch, tag or commit; None: the branch main."""

    name: str
    revision: str | None = None
    kind: Literal["model", "dataset"] = "model"

    def __str__(self) -> str:
        prefix = "hf:" if self.kind == "dataset" else ""
        return f"{prefix}{self.name}" + (f"@{self.revision}" if self.revision else "")


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files of a repository at one commit.

    files: name -> size in bytes, None if unknown.
    folder: if the hub was not reached, the snapshot folder in the cache, which has the files; otherwise None.
    """

    repo: Repo
    commit: str
    files: Mapping[str, int | None]
    folder: Path | None = None


def parse_name(name: str) -> Repo | None:
    """The model that ORG/NAME[@revision] names; None if ``name`` has another form or is an existing path."""
    match = _NAME.fullmatch(name)
    return Repo(match["repo"], match["revision"]) if match and not Path(name).exists() else None


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
    """Raises UserError for a repository that has no weights as safetensors, or no config.json."""
    files, repo = listing.files, listing.repo
    if "adapter_config.json" in files and "config.json" not in files:
        raise UserError(f"{repo} is an adapter: merge it into its base model and give the folder of the result")
    if listing.folder and ("config.json" not in files or not {SINGLE, INDEX} & set(files)):
        missing = "config.json" if "config.json" not in files else SINGLE
        raise UserError(f"the cached {repo} is incomplete ({missing} is missing): {_RESUME}")
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


def _weights(listing: Listing, folder: Path) -> list[str]:
    """The safetensors files that hold the weights: the single file if there is one, otherwise those of the index."""
    if SINGLE in listing.files:
        return [SINGLE]
    index = folder / INDEX
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{index} is damaged ({error!r}): remove the file and run the command again") from error
    if missing := [name for name in names if name not in listing.files]:
        if listing.folder:
            raise UserError(f"the cached {listing.repo} is incomplete ({missing[0]} is missing): {_RESUME}")
        raise UserError(f"{listing.repo} has no file {missing[0]}, which its {INDEX} names: give another revision")
    return names


@functools.lru_cache(maxsize=32)
def list_files(repo: Repo) -> Listing:
    """The files of a repository on the hub, or those in the cache, with a warning, if the hub gives no answer.

    Raises:
      UserError: if the hub refuses the repository or cannot be reached, and it is not cached, or if it has no such
        revision.
    """
    from huggingface_hub import HfApi, errors

    api = HfApi()
    read = api.dataset_info if repo.kind == "dataset" else api.model_info
    with _one_line(repo):
        try:
            info = read(repo.name, revision=repo.revision, files_metadata=True)
        except errors.RevisionNotFoundError:
            raise
        except (_http_error(), OSError) as error:
            cached = _cached(repo)
            if cached is None:
                raise
            if not isinstance(error, errors.OfflineModeIsEnabled):
                reason = str(error).splitlines()[0]
                warnings.warn(f"{repo}: commit {cached.commit[:12]} from the cache is used ({reason})", stacklevel=1)
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
    return Listing(repo, folder.name, files, folder) if files else None


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
    with _one_line(repo, downloading=True):
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
            f"{listing.repo} needs {needed / 1e9:.1f} GB and {cache} has {free / 1e9:.1f} GB free: {_OTHER_DISK}"
        )


@contextmanager
def _one_line(repo: Repo, downloading: bool = False) -> Iterator[None]:
    """Raises exceptions of huggingface_hub as UserError: one line with what to do.

    downloading: the repository was found and its files are downloaded.
    """
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT.removeprefix("https://").removeprefix("http://")
    what = "data set" if repo.kind == "dataset" else "model"
    local = "" if repo.kind == "dataset" else f"there is no folder {repo}, and "
    try:
        yield
    except errors.GatedRepoError as error:
        page = f"{constants.ENDPOINT}/{'datasets/' if repo.kind == 'dataset' else ''}{repo.name}"
        raise UserError(
            f"{repo} is gated and {_token()}: accept its terms at {page} and set HF_TOKEN to a token of your account"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{local}{hub} has no {what} {repo.name}, or it is private and {_token()}: check the name, or set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{repo.name} has no revision {repo.revision}{_revisions(repo)}") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        if constants.HF_HUB_OFFLINE:
            raise UserError(
                f"{local}the {what} {repo} is not in the cache {constants.HF_HUB_CACHE} while HF_HUB_OFFLINE is set: "
                "unset it to download, or set HF_HUB_CACHE to the cache that has it"
            ) from error
        raise UserError(f"{repo} cannot be downloaded ({_reason(error)}): {_RESUME}") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        advice = (
            "wait and run the command again" if status >= 500 or status == 429 else "check HF_ENDPOINT and HF_TOKEN"
        )
        raise UserError(f"{hub} answers {status} for {repo}: {advice}") from error
    except errors.HFValidationError as error:
        raise UserError(f"{repo} is not a name on the hub: write ORG/NAME or ORG/NAME@REVISION") from error
    except _http_error() as error:
        if downloading:
            raise UserError(f"{repo} cannot be downloaded ({_reason(error)}): {_RESUME}") from error
        raise UserError(
            f"{local}{hub} cannot be reached ({_reason(error)}) and {repo} is not in the cache "
            f"{constants.HF_HUB_CACHE}: connect to the internet, or set HF_ENDPOINT to a mirror"
        ) from error
    except (OSError, RuntimeError) as error:  # RuntimeError: of hf_xet, which downloads large files
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "No space left" in str(error):
            raise UserError(f"the disk of {constants.HF_HUB_CACHE} is full: {_OTHER_DISK}") from error
        if getattr(error, "errno", None) in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST):
            raise UserError(
                f"{constants.HF_HUB_CACHE} cannot be written: set HF_HOME to a folder that can be written"
            ) from error
        raise UserError(f"{repo} cannot be downloaded ({_reason(error)}): run the command again") from error


def _token() -> str:
    """What an error message says about the user's token."""
    from huggingface_hub import get_token

    return "the token in HF_TOKEN has no access" if get_token() else "no token is set"


def _http_error() -> type[Exception]:
    """The base class of network errors in the HTTP library that huggingface_hub uses, which is httpx or httpx2."""
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

    return HTTPError


def _reason(error: Exception) -> str:
    """The first line of an exception's message, shortened."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _revisions(repo: Repo) -> str:
    """The branches and tags of a repository for an error message; a general advice if the hub does not list them."""
    from huggingface_hub import HfApi

    try:
        refs = HfApi().list_repo_refs(repo.name, repo_type=repo.kind)
    except (_http_error(), OSError):
        return ": check its branches and tags"
    names = [ref.name for ref in (*refs.branches, *refs.tags)]
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f": it has {', '.join(names[:10])}{more}"
