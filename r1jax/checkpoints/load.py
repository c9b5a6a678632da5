"""Loads checkpoints of every kind."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from r1jax import hub
from r1jax.checkpoints import gguf, huggingface, native
from r1jax.checkpoints.huggingface_config import parse_config
from r1jax.checkpoints.model import Model
from r1jax.checkpoints.smollm2 import fetch_smollm2
from r1jax.errors import UserError
from r1jax.models.config import ModelConfig
from r1jax.tokenizer import Tokenizer, load_tokenizer

EXPORT = "model"  # the subfolder of a run that has its model in the format of Hugging Face

_ACCEPTED = (
    "use a Hugging Face folder (config.json, *.safetensors, tokenizer.json or tokenizer.model), a .gguf file, "
    "a checkpoint of this project, the name of a model on the hub (ORG/NAME), or the name smollm2"
)


def resolve(path: str | Path) -> tuple[Path, Literal["huggingface", "gguf", "native"]]:
    """The file or folder of a checkpoint, and its kind; smollm2 and models of the hub are downloaded unless cached.

    A path that exists is used rather than a model of the hub with this name. The folder of a whole run stands for the
    model that the run exported to its subfolder ``model``.

    Raises UserError, which lists the accepted kinds, if ``path`` is none of them, or the checkpoints of a run that has
    exported none; and as hub.fetch_model.
    """
    if str(path) == "smollm2" and not Path(path).exists():
        return fetch_smollm2(), "gguf"
    if hub.parse_name(str(path)):
        return hub.fetch_model(str(path), _check_before_weights), "huggingface"
    first = ", and a path comes before a model of the hub" if hub.has_form_of_name(str(path)) else ""
    path = Path(path)
    if path.is_file():
        if path.suffix == ".gguf":
            return path, "gguf"
        raise UserError(f"{path} is not a checkpoint{first}: {_ACCEPTED}")
    if not path.is_dir():
        raise UserError(f"{path} does not exist: {_ACCEPTED}")
    if (path / native.MODEL_FILE).is_file():
        return path, "native"
    if not any(path.glob("*.safetensors*")) and (inner := _inner_checkpoints(path)):  # a run has a config.json, too
        if path / EXPORT in inner:
            return path / EXPORT, "huggingface"
        names = ", ".join(folder.name for folder in inner)
        raise UserError(f"{path} is not a checkpoint, but contains {names}: give one of them, such as {inner[-1]}")
    if (path / "config.json").is_file():
        return path, "huggingface"
    if (path.parent / native.MODEL_FILE).is_file():  # one step of a checkpoint
        return path, "native"
    what = "contains no checkpoint" if any(path.iterdir()) else "is empty"
    raise UserError(f"{path} {what}{first}: {_ACCEPTED}")


def _check_before_weights(folder: Path) -> None:
    """Raises UserError if the config or the tokenizer of a model is not supported, before its weights are fetched."""
    parse_config(folder / "config.json")
    load_tokenizer(folder)


def _inner_checkpoints(folder: Path) -> list[Path]:
    """The subfolders of a run that are checkpoints, by name: those of its stages, and its exported model."""
    return sorted(
        inner
        for inner in folder.iterdir()
        if not inner.name.startswith(".")
        and ((inner / native.MODEL_FILE).is_file() or (inner.name == EXPORT and (inner / "config.json").is_file()))
    )


def short_name(path: str | Path) -> str:
    """Name of a checkpoint in folders and titles: the last part of its path, without the suffix .gguf.

    A model of the hub keeps its revision: NAME@REVISION, with "-" for "/".
    """
    repo, at, revision = str(path).partition("@")
    if at and hub.parse_name(str(path)):
        return f"{Path(repo).name}@{revision.replace('/', '-')}"
    return Path(path).name.removesuffix(".gguf")


def read_config(path: str | Path) -> ModelConfig:
    """Reads the config of any checkpoint without its weights, to check a run and to compute shardings."""
    path, kind = resolve(path)
    if kind == "native":
        return native.read_config(path if (path / native.MODEL_FILE).is_file() else path.parent)
    return (gguf if kind == "gguf" else huggingface).read_config(path)


def read_tokenizer(path: str | Path) -> Tokenizer:
    """Reads the tokenizer of any checkpoint without its weights, to check prompts before any device work."""
    path, kind = resolve(path)
    if kind == "gguf":
        return gguf.read_tokenizer(path)
    if kind == "native":
        path = (path if (path / native.MODEL_FILE).is_file() else path.parent) / "tokenizer"
    return load_tokenizer(path)


def load(path: str | Path, dtype: str = "float32", shardings: Any | None = None) -> Model:
    """Loads a Hugging Face folder, a GGUF file, a checkpoint of this project, or a model of the hub.

    Args:
      path: file, folder, ORG/NAME or ORG/NAME@REVISION of the hub, or "smollm2".
      dtype: "float32" or "bfloat16", the type of the parameters and of the returned config.
      shardings: tree of NamedSharding with the structure of the parameters.

    Raises:
      UserError: if a part is missing, damaged or not supported, or the tokenizer has more ids than the model has
        embeddings.
    """
    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"dtype={dtype}: parameters are float32 or bfloat16")
    path, kind = resolve(path)
    if kind == "native":
        model = Model(*native.load_native(path, dtype, shardings))
    elif kind == "gguf":
        model = gguf.load_gguf(path, dtype, shardings)
    else:
        model = huggingface.load_huggingface(path, dtype, shardings)
    if model.tokenizer.vocab_size > model.config.vocab_size:
        # Indexing clamps under jit, so such an id would silently read another row.
        raise UserError(
            f"{path}: the tokenizer's ids go up to {model.tokenizer.vocab_size - 1} and the model has "
            f"{model.config.vocab_size} rows of embeddings: one of the two belongs to another model"
        )
    return dataclasses.replace(model, config=dataclasses.replace(model.config, dtype=dtype))
