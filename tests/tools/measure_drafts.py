"""Measures how many proposed tokens of the draft ngram are accepted on real text. Not part of the suite.

    python tests/tools/measure_drafts.py smollm2 runs/drafts.json --template steps

Groups of completions are sampled once. A proposal counts if it is the token that was drawn, so how drafts go through a
sequence follows from the samples: each kind of draft is replayed on them, with all sequences decoded at once or with
drafts for the last ones alone. "own" looks up tokens in the sequence itself, "group" is the draft ngram. A row has

- acceptance: proposals that count / proposals;
- tokens_per_step: of a sequence, in steps with a draft: the gain if a step with a draft takes as long as one without;
- steps: of the loop, to compare with plain_steps.

The first two are null if no step has a draft.

With --time, the samples are also drawn with the draft, and ``rollouts`` has the seconds of both and the share of
sequences that are equal: in 16 bits, the rounding of logits may change a token.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.benchmark.workload import timed
from r1jax.checkpoints.load import load
from r1jax.data.problems.dataset import ProblemsConfig, load_problems
from r1jax.data.text.template import find_template
from r1jax.pipeline.manifest import versions
from r1jax.sampling.ngram import continuations, texts_of
from r1jax.sampling.processors import Sampling
from r1jax.sampling.queues import make_queue
from r1jax.sampling.sampler import sample
from r1jax.sampling.slots import NONE, Queue


@partial(jax.jit, static_argnames="proposals")
def replay(
    queue: Queue, tokens: jax.Array, lengths: jax.Array, drafting: jax.Array, proposals: int
) -> dict[str, jax.Array]:
    """Sums over the steps in which at most ``drafting`` sequences are live, and all steps."""
    N, M = tokens.shape
    row = jnp.arange(N)

    def step(carry: tuple[jax.Array, dict[str, jax.Array]]) -> tuple[jax.Array, dict[str, jax.Array]]:
        age, sums = carry
        live = age < lengths
        use = live & (live.sum() <= drafting)
        found = continuations(texts_of(queue, row, tokens, age), proposals)
        found = jnp.where((use & (age > 0))[:, None], found, NONE)
        places = age[:, None] + jnp.arange(proposals)
        drawn = jnp.take_along_axis(tokens, jnp.minimum(places, M - 1), axis=1)
        right = jnp.cumprod((found == drawn) & (places + 1 < lengths[:, None]), axis=1).sum(axis=1)
        new = {
            "steps": jnp.int32(1),
            "drafted": use.sum(),
            "tokens": jnp.where(use, 1 + right, 0).sum(),
            "proposed": (found != NONE).sum(),
            "accepted": right.sum(),
        }
        return age + jnp.where(live, 1 + right, 0), {name: sums[name] + new[name].astype(jnp.int32) for name in new}

    names = ("steps", "drafted", "tokens", "proposed", "accepted")
    start: Any = jnp.zeros(N, jnp.int32), dict.fromkeys(names, jnp.int32(0))
    return jax.lax.while_loop(lambda carry: (carry[0] < lengths).any(), step, start)[1]


def rows_of(queue: Queue, tokens: np.ndarray, lengths: np.ndarray) -> list[dict[str, Any]]:
    """The figures of each kind of draft, number of proposed tokens, and number of sequences that use it at most."""
    N = len(queue.prompt_of)
    alone = Queue(
        queue.prompts[queue.prompt_of], queue.prompt_lengths[queue.prompt_of], jnp.arange(N), queue.limits, queue.ids
    )
    rows = []
    for kind, texts in (("own", alone), ("group", queue)):
        for proposals in (1, 3, 7):
            for drafting in (N, N // 4):
                sums = {
                    name: int(x) for name, x in replay(texts, tokens, lengths, jnp.int32(drafting), proposals).items()
                }
                rows.append(
                    {
                        "kind": kind,
                        "draft_tokens": proposals,
                        "sequences": drafting,
                        "acceptance": sums["accepted"] / sums["proposed"] if sums["proposed"] else None,
                        "tokens_per_step": sums["tokens"] / sums["drafted"] if sums["drafted"] else None,
                        "steps": sums["steps"],
                    }
                )
    return rows


def main() -> None:
    """Samples, replays, and writes the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="smollm2, or the path of a checkpoint")
    parser.add_argument("out", type=Path)
    parser.add_argument("--source", default="gym:gsm_symbolic")
    parser.add_argument("--template", default="r1-zero-chat")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--group", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument(
        "--samples", type=Path, help="read samples from this npz file if it exists, or write them to it"
    )
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--draft-tokens", type=int, default=Sampling().draft_tokens)
    parser.add_argument("--draft-slots", type=int, default=Sampling().draft_slots)
    options = parser.parse_args()
    model, template = load(options.base), find_template(options.template)
    problems = load_problems(ProblemsConfig(source=options.source)).train[: options.prompts]
    prompts = [template.prompt_ids(problem, model.tokenizer) for problem in problems]
    sampling = Sampling(max_tokens=options.tokens, temperature=options.temperature)
    config = dataclasses.replace(model.config, dtype=options.dtype)
    draw = partial(
        sample,
        model.params,
        prompts,
        config,
        jax.random.key(options.seed),
        end_tokens=model.tokenizer.eos_ids,
        samples_per_prompt=options.group,
    )
    if options.samples is not None and options.samples.exists():
        samples = np.load(options.samples)
        tokens, lengths = samples["tokens"], samples["lengths"]
    else:
        samples = jax.device_get(draw(sampling=sampling))
        tokens, lengths = samples.tokens, samples.lengths
        if options.samples is not None:
            np.savez(options.samples, tokens=tokens, lengths=lengths)
    result = {
        "base": Path(options.base).name,
        **{
            name: value
            for name, value in vars(options).items()
            if name not in ("base", "out", "samples", "time", "draft_tokens", "draft_slots")
        },
        "device": jax.devices()[0].device_kind,
        "versions": versions("jax", "jaxlib"),
        "lengths": lengths.tolist(),
        "plain_steps": int(lengths.max()),
        "drafts": rows_of(make_queue(prompts, model.config, sampling, options.group), tokens, lengths),
    }
    if options.time:
        drafting = {"draft_tokens": options.draft_tokens, "draft_slots": options.draft_slots}
        drafted = dataclasses.replace(sampling, draft="ngram", **drafting)
        others = draw(sampling=drafted)
        result["rollouts"] = {
            "plain_seconds": timed(lambda: draw(sampling=sampling), 3),
            "draft_seconds": timed(lambda: draw(sampling=drafted), 3),
            "draft_steps": int(others.steps),
            "equal_sequences": float((np.asarray(others.tokens) == tokens).all(axis=1).mean()),
        }
        print(json.dumps(result["rollouts"]))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for row in result["drafts"]:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
