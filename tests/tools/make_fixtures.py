"""Makes tests/fixtures: small random checkpoints and tokenizers, with the results of transformers.

It needs a separate environment, since this project does not depend on torch. The fixtures were last made with Python
3.11, torch 2.13.0, transformers 5.23.0 and tokenizers 0.23.3:

    python -m venv .venv-torch
    .venv-torch/bin/pip install torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3
    .venv-torch/bin/python tests/tools/make_fixtures.py
    .venv-torch/bin/python tests/tools/make_expert_fixtures.py

Each checkpoint holds logits.npz: tokens [2, 24] int32 and logits [2, 24, 128] float32. The logits of the reward model
are [2, 1], and its second row is padded.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForSequenceClassification,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.convert_slow_tokenizer import TikTokenConverter

FIXTURES = Path(__file__).parents[1] / "fixtures"
COMMON = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
# Small enough that the eight frequencies of a head include kept, interpolated and divided ones.
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 64, "rope_theta": 100.0}

TEXT = [
    "Seven and five make twelve, and 12 + 34 = 46; it's what they'd said we'll do.",
    "The quick brown fox jumps over the lazy dog 1234567890 times, isn't that 3.14159 fun?",
    "def add(a, b):\n    return a + b\n\n\nprint(add(1, 2))",
    "Eine schöne Straße in München, où l'été est très chaud.",
    "数学很有趣 七加五等于十二",
]
# Texts on which tokenizers differ: runs of digits, spaces and line ends, contractions in capitals, scripts, symbols,
# composed and decomposed accents, control tokens inside the text.
PROBES = [
    "What is 7 + 5?",
    "12345678 and 3.14159",
    "a  b   c\n\n\n  d \n",
    "   leading, trailing   ",
    "IT'S we'LL don't 'tis",
    "x=$3+^4~|<5>, (ok)!?...\n",
    "schöne e\u0301te\u0301 數學 🙂 ٣٤٥",
    "tab\tand\r\nreturn",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>",
    "",
]
CHATML = (
    "{%- for message in messages %}\n"
    "    {%- if message['role'] not in ['system', 'user', 'assistant'] %}\n"
    "        {{- raise_exception('unknown role ' + message['role']) }}\n"
    "    {%- endif %}\n"
    "    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>' + '\\n' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}\n"
)
# Features that transformers provides to templates.
CORNERS = (
    "{{ bos_token }}{{ strftime_now('%%') }}{% if tools is none %}no tools{% endif %}\n"
    "{% for message in messages %}\n"
    "  {% if message.role == 'system' %}{% continue %}{% endif %}\n"
    "  {{ message | tojson }}{{ message | tojson(indent=1) }}{{ eos_token }}\n"
    "{% endfor %}"
)
MESSAGES = [
    {"role": "system", "content": " Be brief. "},
    {"role": "user", "content": 'Is 5 < 7 & "é" a letter?'},
    {"role": "assistant", "content": "Yes."},
]


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Weights so large that each of them changes the logits by far more than the tolerance of the tests."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if "norm" in name:
                weight.copy_(1 + 0.2 * noise)
            elif weight.ndim == 1:
                weight.copy_(0.5 * noise)
            elif "embed" in name:
                weight.copy_(noise)
            else:
                weight.copy_(noise / weight.shape[1] ** 0.5)


def letters() -> PreTrainedTokenizerFast:
    """128 ids: control tokens, printable ASCII and the commonest pairs."""
    backend = Tokenizer(models.BPE(unk_token=None))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n| ?\w+|[^\w\s]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    alphabet = [chr(c) for c in range(32, 127)] + ["\n"]
    specials = ["<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=128, initial_alphabet=alphabet, limit_alphabet=96, special_tokens=specials, show_progress=False
    )
    backend.train_from_iterator(TEXT[:3], trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", chat_template=CHATML
    )


def save_model(name: str, model: PreTrainedModel, seed: int, dtype: torch.dtype = torch.float32, **save: str) -> Path:
    folder = FIXTURES / name
    randomise(model, seed)
    model.to(dtype).save_pretrained(folder, **save)
    letters().save_pretrained(folder)
    # Read back, because a cast to bfloat16 and back would leave the rotary frequencies rounded.
    model = type(model).from_pretrained(folder, dtype=torch.float32).eval()
    tokens = np.random.default_rng(seed).integers(0, 128, (2, 24)).astype(np.int32)
    if isinstance(model, Qwen2ForSequenceClassification):
        tokens[1, 17:] = COMMON["pad_token_id"]
    with torch.no_grad():
        logits = model(torch.from_numpy(tokens).long()).logits.numpy()
    np.savez_compressed(folder / "logits.npz", tokens=tokens, logits=logits)
    return folder


def edit_config(folder: Path, drop: tuple[str, ...] = (), **values: object) -> None:
    file = folder / "config.json"
    config = {k: v for k, v in json.loads(file.read_text()).items() if k not in drop}
    file.write_text(json.dumps(config | values, indent=2) + "\n")


def make_models() -> None:
    config = LlamaConfig(**COMMON, head_dim=16, tie_word_embeddings=True, rope_parameters=dict(LLAMA3))
    save_model("llama_tied", LlamaForCausalLM(config), 0)

    # The format of transformers 4.3x: rope_theta at the top level, as many key heads as query heads, no head_dim.
    config = LlamaConfig(**{**COMMON, "num_key_value_heads": 4}, attention_bias=True, rope_theta=5000.0)
    folder = save_model("llama_bias", LlamaForCausalLM(config), 1, max_shard_size="40KB")
    dropped = ("rope_parameters", "num_key_value_heads", "head_dim", "dtype")
    edit_config(folder, dropped, rope_theta=5000.0, rope_scaling=None, torch_dtype="float32")

    config = Qwen2Config(**COMMON, tie_word_embeddings=True, rope_theta=1e6)
    save_model("qwen2", Qwen2ForCausalLM(config), 2, torch.bfloat16)

    config = Qwen3Config(**COMMON, head_dim=16, tie_word_embeddings=False, rope_theta=1e6)
    folder = save_model("qwen3", Qwen3ForCausalLM(config), 3)
    edit_config(folder, ("rope_parameters",), rope_theta=1e6, rope_scaling=None, eos_token_id=[4, 1])

    config = Qwen2Config(**{**COMMON, "num_hidden_layers": 1}, num_labels=1, tie_word_embeddings=False)
    save_model("reward", Qwen2ForSequenceClassification(config), 4)

    config = LlamaConfig(**{**COMMON, "num_hidden_layers": 1}, mlp_bias=True, tie_word_embeddings=True)
    save_model("llama_mlp_bias", LlamaForCausalLM(config), 5)


def trained(cuts: list[pre_tokenizers.PreTokenizer]) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    backend.train_from_iterator(TEXT, trainer)
    return backend


def make_tokenizers() -> None:
    """Byte-level BPE with the pre-tokenizers of four model families, and the ids of PROBES."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    gpt2_words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    llama3_pattern = Regex(TikTokenConverter().pattern)  # transformers' own copy of Llama 3's
    gpt2 = trained([gpt2_words])
    # The same vocabulary. Its merges join digits unless the pre-tokenizer separates them.
    smollm = Tokenizer.from_str(gpt2.to_str())
    smollm.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2_words])
    backends = {
        "gpt-2": gpt2,
        "smollm": smollm,
        "llama-bpe": trained([pre_tokenizers.Split(llama3_pattern, behavior="isolated"), byte_level]),
    }
    # Llama 3's vocabulary has words that no merge produces.
    state = json.loads(backends["llama-bpe"].to_str())
    state["model"]["ignore_merges"] = True
    state["model"]["vocab"]["IT"] = len(state["model"]["vocab"])
    backends["llama-bpe"] = Tokenizer.from_str(json.dumps(state))
    bpe = json.loads(backends["gpt-2"].to_str())["model"]
    merges = [tuple(pair) for pair in bpe["merges"]]
    qwen2 = Qwen2Tokenizer(vocab=bpe["vocab"], merges=merges, eos_token="<|im_end|>")
    qwen2.add_tokens([AddedToken(token, special=True) for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    backends["qwen2"] = qwen2.backend_tokenizer

    ids = {}
    for name, backend in backends.items():
        folder = FIXTURES / "tokenizers" / name
        folder.mkdir(parents=True)
        backend.save(str(folder / "tokenizer.json"))
        config = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None}
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
        loaded = PreTrainedTokenizerFast.from_pretrained(folder)
        ids[name] = [loaded(text, add_special_tokens=False)["input_ids"] for text in PROBES]
    expected = {"texts": PROBES, "ids": ids}
    (FIXTURES / "tokenizers" / "expected.json").write_text(json.dumps(expected, ensure_ascii=False) + "\n")


def make_chats() -> None:
    """Templates with the texts that transformers renders."""
    tokenizer = letters()
    chats = []
    for template in (CHATML, CORNERS):
        for add in (False, True):
            text = tokenizer.apply_chat_template(
                MESSAGES, chat_template=template, tokenize=False, add_generation_prompt=add
            )
            chats.append({"template": template, "messages": MESSAGES, "add_generation_prompt": add, "text": text})
    (FIXTURES / "chats.json").write_text(json.dumps(chats, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    shutil.rmtree(FIXTURES, ignore_errors=True)
    FIXTURES.mkdir()
    make_models()
    make_tokenizers()
    make_chats()
