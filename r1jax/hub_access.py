"""A repository of the Hugging Face hub, and one line with what to do for each failure of access to it."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal
from urllib.parse import urlsplit

from r1jax.errors import UserError

RESUME = "connect to the hub and run the command again, which resumes the download"
OTHER_DISK = "free disk space, or set HF_HOME to a folder on another disk"


@dataclasses.dataclass(frozen=True)
class Repo:
    """A repository of the hub. revision: a branch, tag or commit; None: the branch main."""

    name: str
    revision: str | None = None
    kind: Literal["model", "dataset"] = "model"

    def __str__(self) -> str:
        prefix = "hf:" if self.kind == "dataset" else ""
        return f"{prefix}{self.name}" + (f"@{self.revision}" if self.revision else "")


def check_environment() -> None:
    """Raises UserError for environment variables with which modules of huggingface_hub cannot be imported."""
    try:
        from huggingface_hub import constants
    except ValueError as error:
        raise UserError(f"a variable HF_* has no valid value ({reason(error)}): correct or unset it") from error
    try:
        address = urlsplit(constants.ENDPOINT)
        right = address.scheme in ("http", "https") and address.hostname and (address.port or True)
    except ValueError:  # a wrong port or bracket
        right = False
    if not right:
        raise UserError(f"HF_ENDPOINT={constants.ENDPOINT} is not an address: write it as in https://huggingface.co")


@contextmanager
def one_line(repo: Repo, downloading: bool = False) -> Iterator[None]:
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
        raise UserError(f"{repo} cannot be downloaded ({reason(error)}): {RESUME}") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        advice = (
            "wait and run the command again" if status >= 500 or status == 429 else "check HF_ENDPOINT and HF_TOKEN"
        )
        raise UserError(f"{hub} answers {status} for {repo}: {advice}") from error
    except errors.HFValidationError as error:
        raise UserError(f"{repo} is not a name on the hub: write ORG/NAME or ORG/NAME@REVISION") from error
    except http_error() as error:
        if downloading:
            raise UserError(f"{repo} cannot be downloaded ({reason(error)}): {RESUME}") from error
        raise UserError(
            f"{local}{hub} cannot be reached ({reason(error)}) and {repo} is not in the cache "
            f"{constants.HF_HUB_CACHE}: connect to the internet, or set HF_ENDPOINT to a mirror"
        ) from error
    except (OSError, RuntimeError) as error:  # RuntimeError: of hf_xet, which downloads large files
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "No space left" in str(error):
            raise UserError(f"the disk of {constants.HF_HUB_CACHE} is full: {OTHER_DISK}") from error
        if getattr(error, "errno", None) in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST):
            raise UserError(
                f"{constants.HF_HUB_CACHE} cannot be written: set HF_HOME to a folder that can be written"
            ) from error
        raise UserError(f"{repo} cannot be downloaded ({reason(error)}): run the command again") from error


def _token() -> str:
    """What an error message says about the user's token."""
    from huggingface_hub import get_token

    return "the token in HF_TOKEN has no access" if get_token() else "no token is set"


def http_error() -> type[Exception]:
    """The base class of network errors in the HTTP library that huggingface_hub uses, which is httpx or httpx2."""
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

    return HTTPError


def reason(error: Exception) -> str:
    """The first line of an exception's message, shortened."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _revisions(repo: Repo) -> str:
    """The branches and tags of a repository for an error message; a general advice if the hub does not list them."""
    from huggingface_hub import HfApi

    try:
        refs = HfApi().list_repo_refs(repo.name, repo_type=repo.kind)
    except (http_error(), OSError):
        return ": check its branches and tags"
    names = [ref.name for ref in (*refs.branches, *refs.tags)]
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f": it has {', '.join(names[:10])}{more}"
