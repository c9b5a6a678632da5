"""Progress of a training where rich would write something else."""

from r1jax.training.progress import ProgressBar


def test_progress_is_text_on_stderr_in_a_notebook_too(monkeypatch, capsys):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    with ProgressBar("sft", 2) as progress:
        progress.update(2, {"loss": 0.5})
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("sft 2/2  loss 0.500")
