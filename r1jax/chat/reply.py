"""One reply of a model: its text piece by piece, and its timings."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import jax

from r1jax.chat.prompts import Layout
from r1jax.chat.thinking import Piece, ThinkingSplitter
from r1jax.checkpoints.model import Model
from r1jax.errors import UserError
from r1jax.sampling.processors import Sampling
from r1jax.sampling.stream import padded_width, stream, stream_weights
from r1jax.seeds import stage_key
from r1jax.tokenizer.incremental import IncrementalText

Finish = Literal["end", "length", "context", "stopped"]


@dataclasses.dataclass(frozen=True)
class Timings:
    """Tokens and seconds of a reply; seconds count from the submission of the prompt, without compilation.

    useful_seconds is the time until the answer may start ("time to usefulness"): until the thinking has ended, or the
    first token if there is no thinking. It is None while the thinking has not ended.
    """

    prompt_tokens: int
    tokens: int = 0
    thinking_tokens: int = 0
    compile_seconds: float = 0.0
    first_token_seconds: float | None = None
    useful_seconds: float | None = None
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens after the first one per second; None if there are none."""
        if self.first_token_seconds is None or self.tokens < 2:
            return None
        return (self.tokens - 1) / max(self.seconds - self.first_token_seconds, 1e-9)


@dataclasses.dataclass(frozen=True)
class Reply:
    """A reply: ``thinking`` and ``answer`` are its parts without tags, stripped.

    finish: "end" for an end token or a stop text, "length" for the limit of tokens, "context" for the end of the
      model's context, "stopped" for the user.
    """

    thinking: str
    answer: str
    finish: Finish
    timings: Timings


class Replies:
    """Draws the replies of a model.

    Every reply computes the keys and values of the whole conversation again: templates remove the thinking of earlier
    turns, so that the prompt of a turn is no continuation of the one before.

    Args:
      model: the model, whose weights are stored a second time in the layout of decoding.
      layout: which stop texts end a reply, and whether the prompt opens the thinking.
      sampling: settings; max_tokens is reduced to the model's context.
      seed: random seed; reply ``turn`` has its own random key.
      notice: called with a line before programs are compiled, which may take a minute.
      clock: seconds.
    """

    def __init__(
        self,
        model: Model,
        layout: Layout,
        sampling: Sampling,
        seed: int,
        notice: Callable[[str], object] = lambda line: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._config, self._tokenizer, self._layout = model.config, model.tokenizer, layout
        capacity = min(sampling.max_tokens, model.config.context_length)
        self._sampling = dataclasses.replace(sampling, max_tokens=capacity)
        self._key = stage_key(seed, "chat")
        self._weights = stream_weights(model.params, model.config)
        self._notice, self._clock = notice, clock
        self._compiled: set[int] = set()  # widths of prompts

    def reply(
        self,
        prompt: Sequence[int],
        turn: int,
        show: Callable[[Piece, Timings], object],
        stopped: Callable[[], bool] = lambda: False,
    ) -> Reply:
        """Draws reply number ``turn`` and calls ``show`` with each piece of its text as it arrives.

        ``stopped`` is called after compilation and after each group of tokens; the reply ends when it returns True.

        Raises:
          UserError: if the prompt leaves no room in the context.
        """
        context = self._config.context_length
        limit = min(self._sampling.max_tokens, context - len(prompt))
        if limit < 1:
            raise UserError(
                f"the conversation has {len(prompt)} tokens with this message and the model's context is {context}: "
                "send a shorter message, or start again with /reset"
            )
        timings = Timings(len(prompt), compile_seconds=self._compile(prompt))
        if stopped():
            return Reply("", "", "stopped", timings)
        began = self._clock()
        splitter = ThinkingSplitter(self._layout.opens_thinking(prompt), self._layout.stops)
        text = IncrementalText(self._tokenizer, prompt)
        parts: dict[bool, list[str]] = {True: [], False: []}

        def pass_on(pieces: Sequence[Piece], timings: Timings) -> None:
            for piece in pieces:
                parts[piece.thinking].append(piece.text)
                show(piece, timings)

        ends = self._tokenizer.eos_ids
        finish: Finish = "length" if limit == self._sampling.max_tokens else "context"
        for ids in self._stream(prompt, turn, limit):
            now = self._clock() - began
            for id in ids:
                before = splitter.thinking
                pieces = [] if id in ends else splitter.add(text.add(id))
                timings = _advance(timings, now, thinking=before or splitter.thinking, useful=not splitter.thinking)
                pass_on(pieces, timings)
                if id in ends or splitter.stopped:
                    finish = "end"
                    break
            if finish == "end":
                break
            if stopped():
                finish = "stopped"
                break
        pass_on([*splitter.add(text.rest()), *splitter.rest()], timings)
        if splitter.thinking:
            timings = dataclasses.replace(timings, useful_seconds=None)
        thinking, answer = ("".join(parts[kind]).strip() for kind in (True, False))
        return Reply(thinking, answer, finish, timings)

    def _stream(self, prompt: Sequence[int], turn: int, limit: int) -> Iterator[list[int]]:
        key = jax.random.fold_in(self._key, turn)
        ends = self._tokenizer.eos_ids
        return stream(self._weights, prompt, self._config, key, sampling=self._sampling, end_tokens=ends, limit=limit)

    def _compile(self, prompt: Sequence[int]) -> float:
        """Compiles the programs for prompts of this padded width at their first use; returns the seconds it took."""
        width = padded_width(len(prompt), self._config.context_length)
        if width in self._compiled:
            return 0.0
        self._notice(f"compiling for conversations of up to {width:,} tokens")
        began = self._clock()
        next(self._stream(prompt, 0, 1))
        self._compiled.add(width)
        return self._clock() - began


def _advance(timings: Timings, now: float, thinking: bool, useful: bool) -> Timings:
    """The timings with one token more, which was read at ``now``."""
    first = now if timings.first_token_seconds is None else timings.first_token_seconds
    since = timings.useful_seconds
    return dataclasses.replace(
        timings,
        tokens=timings.tokens + 1,
        thinking_tokens=timings.thinking_tokens + thinking,
        first_token_seconds=first,
        useful_seconds=(now if since is None else since) if useful else None,
        seconds=now,
    )
