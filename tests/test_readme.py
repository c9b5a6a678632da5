"""Runs the README's notebook code on a small checkpoint in place of the downloaded one."""

import jax

from tests.helpers.paths import ROOT


def test_the_notebook_runs_and_its_sample_is_the_likeliest(tmp_path, monkeypatch, capsys):
    section = (ROOT / "README.md").read_text().split("### From a notebook")[1]
    code = section.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code.replace('"smollm2"', repr(str(ROOT / "tests" / "fixtures" / "llama_tied"))), names)
    model, samples = names["model"], names["samples"]
    first = int(names["logits"][0, -1].argmax())
    assert samples.tokens.shape[0] == 1 and int(samples.tokens[0, 0]) == first
    assert capsys.readouterr().out.rstrip("\n") == model.tokenizer.decode(
        samples.tokens[0, : samples.lengths[0]].tolist()
    ).rstrip("\n")
    assert (tmp_path / "exported" / "model.safetensors").is_file() and jax.tree.leaves(model.params)
