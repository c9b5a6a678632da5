"""Checks that exported folders load in transformers and compute the same there. Not part of the suite.

Run ``export`` in this project's environment, then ``compare`` in the environment that tests/tools/make_fixtures.py
describes, with protobuf and sentencepiece, which transformers needs to read tokenizer.model:

    python tests/tools/check_transformers.py export FOLDER
    .venv-torch/bin/python tests/tools/check_transformers.py compare FOLDER

``compare`` prints a line for each export and exits 1 if logits are more than 1e-4 apart or token ids differ.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

MESSAGES = [{"role": "user", "content": "What is 7 + 5?"}]


def export(folder: Path) -> None:
    """Writes one folder for each kind of model and tokenizer, with our logits and ids in expected.json."""
    import jax
    import sentencepiece

    from r1jax.checkpoints.huggingface import load_huggingface, save_huggingface
    from r1jax.checkpoints.model import Model
    from r1jax.models.config import ModelConfig
    from r1jax.models.transformer import forward, param_specs, scores
    from r1jax.sharding import init_params
    from r1jax.tokenizer import ByteTokenizer, load_tokenizer

    fixtures = Path(__file__).parents[1] / "fixtures"
    texts = json.loads((fixtures / "tokenizers" / "expected.json").read_text())["texts"]
    names = ("llama_tied", "llama_bias", "llama_mlp_bias", "qwen2", "qwen3", "reward")
    names += ("deepseek_v3", "deepseek_v2", "deepseek_v2_lite", "mixtral", "qwen3_moe", "olmoe")
    models = {name: load_huggingface(fixtures / name) for name in names}

    config = ModelConfig(vocab_size=512)
    params = init_params(param_specs(config), jax.random.key(0))
    models["bytes"] = Model(config, params, ByteTokenizer("{{ bos_token }}{{ messages[0].content }}"))
    stream = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text for text in texts * 9 if "<|" not in text]),
        model_writer=stream,
        model_type="bpe",
        vocab_size=340,
        byte_fallback=True,
        add_dummy_prefix=False,
        user_defined_symbols=["<think>", "\n"],
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    with tempfile.TemporaryDirectory() as trained:
        (Path(trained) / "tokenizer.model").write_bytes(stream.getvalue())
        models["sentencepiece"] = Model(config, params, load_tokenizer(trained))
    for name in ("gpt-2", "smollm", "llama-bpe", "qwen2"):
        models[f"tokenizer_{name}"] = Model(config, params, load_tokenizer(fixtures / "tokenizers" / name))

    for name, model in models.items():
        save_huggingface(model, folder / name, shard_bytes=60_000)
        tokens = np.random.default_rng(0).integers(3, model.config.vocab_size, (2, 24))  # 0 to 2 pad, begin and end
        if model.config.head == "scalar":
            logits = scores(model.params, jax.numpy.asarray(tokens), jax.numpy.array([24, 24]), model.config)[:, None]
        else:
            logits = forward(model.params, jax.numpy.asarray(tokens), model.config)
        expected = {
            "tokens": tokens.tolist(),
            "logits": np.asarray(logits).tolist(),
            "texts": texts,
            "ids": [model.tokenizer.encode(text) for text in texts],
            "decoded": [model.tokenizer.decode(model.tokenizer.encode(text)) for text in texts],
            "bos_id": model.tokenizer.bos_id,
            "eos_ids": model.tokenizer.eos_ids,
            "chat": model.tokenizer.chat(MESSAGES) if model.tokenizer.chat_template else None,
        }
        (folder / name / "expected.json").write_text(json.dumps(expected))


def compare(folder: Path) -> bool:
    """Prints the difference between transformers and expected.json in each folder; returns True if all agree."""
    import torch
    import transformers

    same = True
    for file in sorted(folder.glob("*/expected.json")):
        expected = json.loads(file.read_text())
        config = transformers.AutoConfig.from_pretrained(file.parent)
        scalar = config.architectures[0].endswith("ForSequenceClassification")
        auto = transformers.AutoModelForSequenceClassification if scalar else transformers.AutoModelForCausalLM
        model = auto.from_pretrained(file.parent).float().eval()
        with torch.no_grad():
            logits = model(torch.tensor(expected["tokens"])).logits.numpy()
        apart = float(np.abs(logits - np.array(expected["logits"])).max())

        # AutoTokenizer would ignore tokenizer.json and build Qwen2's own tokenizer for each model of that type.
        whole = (file.parent / "tokenizer.json").is_file()
        kind = transformers.PreTrainedTokenizerFast if whole else transformers.AutoTokenizer
        tokenizer = kind.from_pretrained(file.parent)
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in expected["texts"]]
        wrong = [text for text, a, b in zip(expected["texts"], ids, expected["ids"], strict=True) if a != b]
        decoded = [tokenizer.decode(i, skip_special_tokens=True) for i in expected["ids"]]
        wrong += [text for text, a, b in zip(expected["texts"], decoded, expected["decoded"], strict=True) if a != b]
        if (expected["bos_id"] is not None) != (tokenizer("a")["input_ids"][0] == expected["bos_id"]):
            wrong.append("bos")
        eos = transformers.GenerationConfig.from_pretrained(file.parent).eos_token_id
        if sorted([eos] if isinstance(eos, int) else eos) != sorted(expected["eos_ids"]):
            wrong.append("eos")
        if expected["chat"] is not None:
            text = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
            if tokenizer(text, add_special_tokens=False)["input_ids"] != expected["chat"]:
                wrong.append("chat")
        print(f"{file.parent.name:20} logits apart by {apart:.1e}; ids that differ: {wrong or 'none'}")
        same = same and apart <= 1e-4 and not wrong
    return same


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("export", "compare"):
        sys.exit(__doc__)
    if sys.argv[1] == "export":
        export(Path(sys.argv[2]))
    else:
        sys.exit(0 if compare(Path(sys.argv[2])) else 1)
