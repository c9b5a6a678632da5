"""Pretraining of a small base model and its tokenizer on a synthetic corpus."""

from __future__ import annotations

import dataclasses
import io
import time
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import sentencepiece

from r1jax.checkpoints.native import write_model
from r1jax.data.problems.dataset import ProblemsConfig
from r1jax.data.problems.problem import HELD_OUT_SHARE, Problem
from r1jax.data.text.bilingual_corpus import BilingualCorpusConfig, bilingual_documents
from r1jax.data.text.corpus import CorpusConfig, documents
from r1jax.data.text.template import TAGS, Template, find_template
from r1jax.errors import UserError
from r1jax.models.config import Architecture, Experts, Latent, ModelConfig
from r1jax.models.transformer import param_specs
from r1jax.pipeline.stage import Figures, Inputs
from r1jax.seeds import stage_key, stage_seed
from r1jax.sharding import batch_sharding, entered_mesh, init_params, param_count
from r1jax.tokenizer import SentencePieceTokenizer, Tokenizer
from r1jax.training.language_model import language_model_update
from r1jax.training.loop import SaveConfig, TrainingLoop
from r1jax.training.metrics import reduce_metrics, totals
from r1jax.training.multi_token import MultiTokenConfig
from r1jax.training.optimizer import Schedule, make_optimizer, warn_of_rounding
from r1jax.training.state import TrainState, init_state, state_shapes

# One message per line, with an end token after each message of the assistant.
CHAT = (
    "{{ bos_token }}{% for message in messages %}{{ message.content }}"
    "{{ eos_token if message.role == 'assistant' else '\n' }}{% endfor %}"
)


@dataclasses.dataclass(frozen=True)
class PretrainConfig(MultiTokenConfig):
    """The base model that is pretrained if no other is given."""

    steps: int = 900
    """The number of updates."""
    batch: int = 64
    """Documents per update."""
    width: int = 52
    """The number of tokens that documents are cut to."""
    vocabulary: int = 112
    """The size of the tokenizer that is trained on the corpus."""
    hidden_size: int = 128
    """The width of the model."""
    num_layers: int = 2
    """The number of decoder blocks."""
    learning_rate: float = 3e-3
    warmup_steps: int = 30
    schedule: Schedule = "cosine"
    weight_decay: float = 0.1
    router_bias_speed: float = 1e-3
    architecture: Architecture = "llama"
    """The architecture of the decoder: llama, qwen2, qwen3, or deepseek_v3 (latent attention and experts)."""
    mtp_layers: int = 0
    """The number of layers of multi-token prediction, for the architecture deepseek_v3."""
    corpus: CorpusConfig | BilingualCorpusConfig = CorpusConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.steps, self.batch, self.num_layers) < 1 or self.width < 8:
            raise UserError("pretrain: steps, batch and num-layers must be at least 1 and width at least 8")
        if self.hidden_size % 64:
            raise UserError(f"pretrain: hidden-size {self.hidden_size} must be a multiple of 64, two heads of 32")
        known = ("llama", "qwen2", "qwen3", "deepseek_v3")
        if self.architecture not in known:
            raise UserError(f"pretrain: architecture {self.architecture} is not one of {', '.join(known)}")
        if self.architecture == "deepseek_v3" and self.num_layers < 2:
            raise UserError("pretrain: num-layers must be at least 2 for deepseek_v3, whose first layer is dense")
        if self.mtp_layers < 0 or (self.mtp_layers and self.architecture != "deepseek_v3"):
            raise UserError(
                f"pretrain: mtp-layers {self.mtp_layers} must be 0, or above 0 with --pretrain.architecture=deepseek_v3"
            )
        if self.mtp_weight and not self.mtp_layers:
            raise UserError("pretrain: mtp-weight needs mtp-layers of at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainSettings:
    """Settings of pretraining; the model's context is the sum of pretrain.width and max_tokens."""

    pretrain: PretrainConfig
    template: str
    digits: int  # of the arithmetic in the corpus, as in ProblemsConfig
    operations: str  # as in ProblemsConfig
    held_out_share: float  # as in ProblemsConfig
    general_held_out_share: float | None  # of the general prompts; None: the corpus has no general prompts
    max_tokens: int  # of a completion
    seed: int
    save: SaveConfig


def pretrain_settings(
    pretrain: PretrainConfig,
    template: str,
    problems: ProblemsConfig,
    general: ProblemsConfig | None,
    max_tokens: int,
    seed: int,
    save: SaveConfig,
) -> PretrainSettings:
    """The settings of pretraining for these problems; ``general`` matters for a bilingual corpus only."""
    bilingual = general is not None and isinstance(pretrain.corpus, BilingualCorpusConfig)
    return PretrainSettings(
        pretrain=pretrain,
        template=template,
        digits=problems.digits,
        operations=problems.operations,
        held_out_share=problems.held_out_share,
        general_held_out_share=general.held_out_share if general is not None and bilingual else None,
        max_tokens=max_tokens,
        seed=seed,
        save=save,
    )


def train_tokenizer(texts: list[str], vocabulary: int) -> Tokenizer:
    """A SentencePiece BPE tokenizer of the texts, with one token per digit, tag and line end."""
    model = io.BytesIO()
    least = len(TAGS) + len(set("".join(texts))) + 5  # all characters, tags and control pieces
    if vocabulary < least:
        raise UserError(f"pretrain.vocabulary={vocabulary}: this corpus needs at least {least}")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in texts for line in text.split("\n")]),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocabulary,
        hard_vocab_limit=False,  # a small corpus may not have as many pieces
        split_digits=True,
        user_defined_symbols=[*TAGS, "\n"],
        pad_id=3,
        add_dummy_prefix=False,  # there is no space between a prompt and its completion
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        character_coverage=1.0,
        num_threads=1,  # deterministic
        minloglevel=2,
    )
    backend = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return SentencePieceTokenizer(
        backend=backend,
        bos_id=backend.bos_id(),
        bos_token=backend.id_to_piece(backend.bos_id()),
        chat_template=CHAT,
        eos_ids=(backend.eos_id(),),
        pad_id=backend.pad_id(),
    )


def model_config(config: PretrainConfig, vocab_size: int, context: int) -> ModelConfig:
    """A small decoder with heads of size 32 and two query heads per key/value head.

    The architecture deepseek_v3 has latent attention and, after a dense layer, a shared expert and 16 routed ones in 4
    groups, of which a token uses 4. It uses as many feed-forward weights as in the other architectures.
    """
    heads = config.hidden_size // 32
    model = ModelConfig(
        architecture=config.architecture,
        attention_bias=config.architecture == "qwen2",
        qk_norm=config.architecture == "qwen3",
        vocab_size=vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=3 * config.hidden_size,
        num_layers=config.num_layers,
        num_heads=heads,
        num_kv_heads=heads // 2,
        head_dim=32,
        context_length=context,
    )
    if config.architecture != "deepseek_v3":
        return model
    return dataclasses.replace(
        model,
        head_dim=64,
        num_kv_heads=heads,
        mtp_layers=config.mtp_layers,
        # All heads share one rotated key: with 16 numbers, an update of RL disturbs it more than any other weight.
        latent=Latent(
            kv_rank=config.hidden_size // 2, nope_dim=32, rope_dim=32, value_dim=32, query_rank=config.hidden_size // 2
        ),
        experts=Experts(
            number=16,
            active=4,
            width=config.hidden_size // 2,
            shared_width=config.hidden_size,
            dense_layers=1,
            scores="sigmoid",
            scale=2.0,  # the root of the active experts: the sum of them is about as large as one
            groups=4,
            active_groups=2,
            group_score="two highest",
            bias=True,
        ),
    )


def pretrain(
    config: PretrainConfig,
    save: SaveConfig,
    template: Template,
    problems: ProblemsConfig,
    context: int,
    seed: int,
    folder: Path,
    general_share: float = HELD_OUT_SHARE,
    name: str = "pretrain",
) -> dict[str, Any]:
    """Pretrains a model on its corpus, writes checkpoints and metrics to ``folder``, and returns the stage's figures.

    general_share: the share of general prompts that is held out of a bilingual corpus. Each row has one document
    between bos and eos, like the prompts and completions of later stages. The corpus depends on the seed, the initial
    weights also on ``name``, and the batch of a step also on the step. Without an entered mesh it runs on one device.
    """
    texts = corpus_texts(config.corpus, problems, general_share, template, seed)
    tokenizer = train_tokenizer(texts[:4000], config.vocabulary)
    model = model_config(config, tokenizer.vocab_size, context)
    tokens, mask = document_rows(texts, tokenizer, config.width)
    check_widths(texts, tokenizer, template, config.width)
    order = grain.MapDataset.range(len(texts)).shuffle(seed=stage_seed(seed, name)).repeat()

    mesh = entered_mesh()
    specs = param_specs(model)
    warn_of_rounding(config, "pretrain")
    optimizer = make_optimizer(config, config.steps, stage_seed(seed, name, "rounding"))
    shapes = state_shapes(model, config, optimizer, mesh)
    write_model(folder, model, tokenizer)

    def initial() -> TrainState:
        return init_state(init_params(specs, stage_key(seed, name, "weights")), optimizer, shapes)

    def step_fn(state: TrainState, step: int) -> tuple[TrainState, dict[str, float]]:
        began = time.perf_counter()
        picked = np.array([order[i] for i in range(step * config.batch, (step + 1) * config.batch)])
        batch = jax.device_put({"tokens": tokens[picked], "mask": mask[picked]}, batch_sharding())
        state, metrics = language_model_update(
            state, batch, optimizer, model, balance=config.balance, mtp_weight=config.mtp_weight
        )
        row = reduce_metrics(metrics)
        learned = float(mask[picked].sum())
        return state, row | {"tokens": learned, "tokens_per_second": learned / (time.perf_counter() - began)}

    with TrainingLoop(folder, name, config.steps, save) as loop:
        loop.fit(loop.start(shapes, initial), step_fn)
    return {"parameters": param_count(specs), "documents": len(texts)} | totals(folder, "tokens", "seconds")


def corpus_texts(
    corpus: CorpusConfig, problems: ProblemsConfig, general_share: float, template: Template, seed: int
) -> list[str]:
    """The documents of a corpus, without held-out problems and held-out general prompts."""
    if isinstance(corpus, BilingualCorpusConfig):
        return bilingual_documents(corpus, problems, general_share, template, seed)
    return documents(corpus, problems, template, seed)


def check_widths(texts: list[str], tokenizer: Tokenizer, template: Template, width: int) -> None:
    """Raises UserError if prompts do not fit ``width`` tokens, or if more than 5% of the answers are cut."""
    ended = [len(tokenizer.encode(text)) for text in texts[:1000] if text.endswith("</answer>")]
    cut = sum(n >= width for n in ended)
    prompt = len(template.prompt_ids(Problem("99 + 99", "198", "number"), tokenizer))
    if prompt >= width:
        raise UserError(f"a prompt of template {template.name} has {prompt} tokens: raise pretrain.width from {width}")
    if ended and cut > len(ended) / 20:
        raise UserError(
            f"{cut} of {len(ended)} answered documents are longer than pretrain.width={width}: raise it to "
            f"{max(ended) + 1}, and sampling.max-tokens with it"
        )


def document_rows(texts: list[str], tokenizer: Tokenizer, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [n, width + 1] and mask [n, width] of documents; longer documents are cut and have no eos."""
    tokens = np.zeros((len(texts), width + 1), np.int32)
    mask = np.zeros((len(texts), width), bool)
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    for i, text in enumerate(texts):
        ids = [*begin, *tokenizer.encode(text), tokenizer.eos_ids[0]][: width + 1]
        tokens[i, : len(ids)] = ids
        mask[i, : len(ids) - 1] = True
    return tokens, mask


def pretrain_stage(settings: PretrainSettings, inputs: Inputs, folder: Path) -> Figures:
    """Pretrains a small base model with its tokenizer; reads no input."""
    problems = ProblemsConfig(
        digits=settings.digits, operations=settings.operations, held_out_share=settings.held_out_share
    )
    config, share = settings.pretrain, settings.general_held_out_share
    return pretrain(
        config,
        settings.save,
        find_template(settings.template),
        problems,
        config.width + settings.max_tokens,
        settings.seed,
        folder,
        HELD_OUT_SHARE if share is None else share,
        folder.name,
    )
