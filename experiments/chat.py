"""Chat with a model in the terminal, with timings of each reply.

    python experiments/chat.py --model PATH
    python experiments/chat.py --model PATH --prompt "What is 17 * 23?"       one reply, and the end
    python experiments/chat.py --model PATH --out turns.jsonl < prompts.txt   a message per line

The reply appears while it is computed. Thinking is dimmed and folded into one line when it has ended; /think shows it
again and /help lists the commands. Without a terminal, stdout holds only the replies, without control codes, and
statistics go to stderr. The whole conversation is computed again for each reply.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import jax
from rich.console import Console

from r1jax import cli
from r1jax.chat.display import PlainDisplay, TerminalDisplay
from r1jax.chat.prompts import AUTO, Layout, find_layout
from r1jax.chat.reply import Replies
from r1jax.chat.session import Session
from r1jax.checkpoints.load import read_config, read_tokenizer, short_name
from r1jax.errors import UserError
from r1jax.models.config import ComputeOptions
from r1jax.models.experts import check_mesh
from r1jax.pipeline.command import call_and_exit, keep_compiled
from r1jax.recipe.loading import load_model
from r1jax.sampling.processors import Sampling
from r1jax.sharding import make_mesh, parse_mesh
from r1jax.stopping import Interrupts, call_in_main_thread


@dataclasses.dataclass(frozen=True)
class Config:
    """The model, how it draws tokens, and the messages."""

    model: str = ""
    """The model: a Hugging Face folder, a .gguf file, the folder of a stage or of a finished run, or smollm2."""
    prompt: str | None = None
    """Reply to this message and stop. None reads messages from the terminal or, one per line, from stdin."""
    system: str = ""
    """The system prompt."""
    template: str = AUTO
    """The form of prompts: auto (the model's chat template, or plain if it has none), plain, or a template of training,
    such as think or r1-zero, which asks each message alone."""
    temperature: float = 0.6
    """Divide logits by this temperature; 0 decodes greedily."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all tokens."""
    top_p: float = 0.95
    """Keep the smallest set of most likely tokens whose total probability reaches this value."""
    min_p: float = 0.0
    """Drop tokens whose probability is below this fraction of the highest one."""
    max_tokens: int = 4096
    """End a reply after this many tokens."""
    seed: int = 0
    """The random seed. The same seed, conversation and settings give the same replies."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Hold weights and compute in this type; auto is float32 on a CPU and bfloat16 on other devices."""
    mesh: str = "1x1"
    """The devices as 1xMODEL, or 1xMODELxEXPERT for a model with experts. The model axis splits the heads, and the
    expert axis the experts."""
    out: Path | None = None
    """Add each turn with its timings to this file, as a line of JSON."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**31:
            raise UserError(f"--seed={self.seed} must be at least 0 and below {2**31}")
        if parse_mesh(self.mesh).data != 1:
            raise UserError(
                f"--mesh={self.mesh}: a chat has one sequence, so the data axis must be 1, as in --mesh=1x2"
            )
        sampling_of(self)


def sampling_of(config: Config) -> Sampling:
    """The settings of the sampler; raises UserError for values out of range."""
    names = ("temperature", "top_k", "top_p", "min_p", "max_tokens")
    return Sampling(**{name: getattr(config, name) for name in names})


def messages(interrupts: Interrupts) -> Iterator[str]:
    """Lines of the terminal or of stdin, without empty ones; a line that ends in a backslash continues."""
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if terminal:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (importing it gives input() a history and editing)
    parts: list[str] = []
    while True:
        try:
            with interrupts.at_prompt():
                line = input(("... " if parts else ">>> ") if terminal else "")
        except EOFError:
            if terminal:
                print()
            if parts:
                yield "\n".join(parts)
            return
        except KeyboardInterrupt:
            if not terminal:
                raise
            print("\nCtrl-D or /exit ends the chat")
            parts = []
            continue
        parts.append(line.removesuffix("\\"))
        if not line.endswith("\\"):
            yield "\n".join(parts)
            parts = []


def check(config: Config, layout: Layout) -> None:
    """Raises UserError if the prompts have no place for the system message, or turns cannot be added to the file."""
    if config.system:
        layout.prompt_ids([{"role": "system", "content": config.system}, {"role": "user", "content": ""}])
    if config.out is not None:
        try:
            config.out.open("a").close()
        except OSError as error:
            raise UserError(f"--out={config.out} cannot be written ({error.strerror}): give another file") from error


def accept_any_text() -> None:
    """Lets bytes that are no text be read, and characters that the output cannot show be written, as replacements."""
    for file in (sys.stdin, sys.stdout):
        if isinstance(file, io.TextIOWrapper):
            file.reconfigure(errors="replace")


def text_of(argument: str) -> str:
    """An argument of the command line, whose bytes Python escapes if the locale has no characters for them."""
    return argument.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def chat(config: Config, session: Session, interrupts: Interrupts) -> None:
    """Replies to the message of the command line, or to those that are read until the end of the input."""
    if config.prompt is not None:
        session.ask(config.prompt)
        if interrupts.requested:
            raise KeyboardInterrupt
        return
    for text in messages(interrupts):
        if not session.line(text):
            return
        if interrupts.requested and not sys.stdin.isatty():
            raise KeyboardInterrupt


def main() -> None:
    """Loads the model and chats."""
    presets = {"chat": ("the published sampling settings of R1 (arXiv 2501.12948)", Config())}
    config = cli.parse(presets, "chat", prog="chat.py", description=(__doc__ or "").splitlines()[0])
    config = dataclasses.replace(config, prompt=config.prompt and text_of(config.prompt), system=text_of(config.system))
    if not config.model:
        raise UserError("no model: give --model=FOLDER, --model=FILE.gguf or --model=smollm2")
    if read_config(config.model).head != "vocabulary":
        raise UserError(f"{config.model} is a reward model, which writes no text: give a language model")
    check_mesh(config.mesh, read_config(config.model))
    layout = find_layout(config.template, read_tokenizer(config.model))
    check(config, layout)
    accept_any_text()
    keep_compiled()
    # Not Console.is_terminal: FORCE_COLOR would write control codes into a pipe.
    display = TerminalDisplay(Console()) if sys.stdout.isatty() else PlainDisplay()
    dtype = config.dtype if config.dtype != "auto" else "float32" if jax.default_backend() == "cpu" else "bfloat16"
    with jax.set_mesh(make_mesh(config.mesh)):
        model = load_model(Path(config.model), ComputeOptions(dtype=dtype), dtype)
        device = jax.devices()[0].device_kind
        replies = Replies(model, layout, sampling_of(config), config.seed, notice=display.say)
        if config.prompt is None and sys.stdout.isatty():
            display.say(f"{short_name(config.model)} in {dtype} on {device}; /help lists the commands")
        if layout.note:
            display.say(layout.note)
        settings = {**dataclasses.asdict(config), "dtype": dtype, "device": device}
        about = {name: value for name, value in settings.items() if name not in ("prompt", "system", "out")}
        with Interrupts() as interrupts, contextlib.closing(display):
            session = Session(
                replies,
                layout,
                display,
                system=config.system,
                out=config.out,
                about=about,
                stopped=lambda: interrupts.requested,
            )
            chat(config, session, interrupts)


if __name__ == "__main__":
    advice = "use --dtype=bfloat16, lower --max-tokens, or split the model with --mesh=1x2"
    call_and_exit(main, advice, farewell="stopped", call=call_in_main_thread)
