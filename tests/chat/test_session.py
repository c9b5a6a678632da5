"""Conversations with a model whose tokens the test gives, and a clock that it sets."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import pytest
from rich.console import Console

from r1jax.chat import reply as reply_module
from r1jax.chat.display import Display, PlainDisplay, TerminalDisplay
from r1jax.chat.prompts import find_layout
from r1jax.chat.reply import Replies, Timings
from r1jax.chat.session import Session
from r1jax.chat.thinking import Piece
from r1jax.checkpoints.model import Model
from r1jax.data.formats.conversations import read_conversations
from r1jax.errors import UserError
from r1jax.models.config import ModelConfig
from r1jax.sampling.processors import Sampling
from r1jax.tokenizer import ByteTokenizer

TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
TEMPLATE += "{% if add_generation_prompt %}[assistant]{% endif %}"


class Script:
    """Replies that the test sets, in groups of ``size`` bytes, each a second after the one before."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.size, self.now = 4, 0.0
        self.prompts: list[str] = []
        self.keys: list[Any] = []

    def stream(self, weights: Any, prompt: Sequence[int], config: Any, key: Any, **options: Any) -> Iterator[list[int]]:
        if options["limit"] == 1 and self.prompts[-1:] != [ByteTokenizer().decode(prompt)]:
            self.now += 50.0  # compilation
            self.prompts.append(ByteTokenizer().decode(prompt))
            return iter([[0]])
        return self._tokens(prompt, key, options)

    def _tokens(self, prompt: Sequence[int], key: Any, options: dict[str, Any]) -> Iterator[list[int]]:
        self.prompts.append(ByteTokenizer().decode(prompt))
        self.keys.append(jax.random.key_data(key).tolist())
        ids = [*self.texts.pop(0).encode(), 257][: options["limit"]]
        for group in [ids[:1], *(ids[i : i + self.size] for i in range(1, len(ids), self.size))]:
            self.now += 1.0
            yield group


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    script = Script()
    monkeypatch.setattr(reply_module, "stream", script.stream)
    monkeypatch.setattr(reply_module, "stream_weights", lambda params, config: None)
    return script


def session(
    script: Script,
    template: str | None = TEMPLATE,
    display: Display | None = None,
    layout: str = "auto",
    **options: Any,
) -> Session:
    config = ModelConfig(vocab_size=259, context_length=options.pop("context", 400))
    model = Model(config, {}, ByteTokenizer(template))
    found = find_layout(layout, model.tokenizer)
    sampling = Sampling(max_tokens=options.pop("max_tokens", 100))
    replies = Replies(model, found, sampling, options.pop("seed", 0), clock=lambda: script.now)
    return Session(replies, found, display or PlainDisplay(io.StringIO(), io.StringIO()), **options)


def test_a_turn_reads_the_turns_before_it_without_their_thinking(script: Script) -> None:
    script.texts = ["<think>7 + 5</think>\n12", "24"]
    chat = session(script, system="Be brief.")
    assert chat.ask("7 + 5?").answer == "12"
    assert chat.ask("Twice?").answer == "24"
    want = "[system]Be brief.[user]7 + 5?[assistant]12[user]Twice?[assistant]"
    assert script.prompts[-1] == want and chat.messages[-1] == {"role": "assistant", "content": "24"}
    assert script.keys[0] != script.keys[1]


def test_timings_count_from_the_prompt_and_without_compilation(script: Script) -> None:
    script.texts = ["<think>abc</think>12", "plain"]
    chat = session(script)
    first = chat.ask("a").timings
    # 20 characters and the end token: one token after 1 s, four more each second; </think> ends with the 18th.
    assert (first.tokens, first.thinking_tokens, first.compile_seconds) == (21, 12, 50.0)
    assert (first.first_token_seconds, first.useful_seconds, first.seconds) == (1.0, 6.0, 6.0)
    assert first.tokens_per_second == pytest.approx(20 / 5) and first.prompt_tokens == len("[user]a[assistant]")
    second = chat.ask("b").timings
    assert (second.compile_seconds, second.first_token_seconds, second.useful_seconds) == (0.0, 1.0, 1.0)
    assert second.thinking_tokens == 0


def test_a_prompt_that_opens_the_tag_starts_with_thinking(script: Script) -> None:
    script.texts = ["hm</think>12", "endless"]
    chat = session(script, TEMPLATE.replace("[assistant]", "[assistant]<think>\n"))
    reply = chat.ask("a")
    assert (reply.thinking, reply.answer, reply.finish) == ("hm", "12", "end")
    reply = chat.ask("b")
    assert (reply.thinking, reply.answer, reply.timings.useful_seconds) == ("endless", "", None)
    assert [m["content"] for m in chat.messages] == ["a", "12"]  # the turn without an answer is not kept


def test_limits_and_the_context_end_a_reply_and_say_so(script: Script) -> None:
    log = io.StringIO()
    chat = session(script, display=PlainDisplay(io.StringIO(), log), max_tokens=5, context=30)
    script.texts = ["123456789", "1234567"]
    assert chat.ask("a").finish == "length"
    before = list(chat.messages)
    with pytest.raises(UserError, match=r"41 tokens .* context is 30: .*/reset"):
        chat.ask("b")
    assert chat.messages == before
    chat.line("b")
    chat.line("/reset")
    assert "error: the conversation has 41 tokens" in log.getvalue() and log.getvalue().count("error") == 1
    assert chat.ask("abcdefghij").finish == "context"
    assert "reached --max-tokens" in log.getvalue() and "end of the model's context" in log.getvalue()


def test_ctrl_c_ends_the_reply_and_keeps_what_was_said(script: Script) -> None:
    script.texts = ["a long reply that goes on", "and on"]
    stop = iter([False, False, False, True, False, False, False])
    chat = session(script, stopped=lambda: next(stop))
    reply = chat.ask("a")
    assert (reply.answer, reply.finish, reply.timings.tokens) == ("a long re", "stopped", 9)
    assert chat.ask("go on").finish == "end" and "[assistant]a long re[user]" in script.prompts[-1]


def test_without_a_chat_template_the_prompt_is_plain_and_the_next_speaker_ends_the_reply(script: Script) -> None:
    script.texts = [" Paris.\n\nUser: And?", "x"]
    chat = session(script, template=None, system="S")
    reply = chat.ask("Capital?")
    assert (reply.answer, reply.finish) == ("Paris.", "end")
    chat.ask("And?")
    assert script.prompts[-1] == "S\n\nUser: Capital?\n\nAssistant: Paris.\n\nUser: And?\n\nAssistant:"
    layouts = [find_layout(name, ByteTokenizer(template)) for name, template in [("auto", None), ("plain", TEMPLATE)]]
    assert ["no chat template" in layout.note for layout in layouts] == [True, False]
    assert layouts[0].prompt_ids([{"role": "user", "content": "a"}])[0] == 256
    assert find_layout("auto", ByteTokenizer(TEMPLATE)).note == ""


def test_a_template_of_training_asks_each_message_alone() -> None:
    layout = find_layout("think", ByteTokenizer())
    messages = [{"role": "user", "content": text} for text in ("1 + 1", "37 + 48")]
    ids = layout.prompt_ids(messages)
    assert bytes(ids[1:]).decode() == "37 + 48 = ?\n<think>" and layout.opens_thinking(ids) and "alone" in layout.note
    for name, tokenizer, words in [
        ("think", ByteTokenizer(), "system prompt"),
        ("r1", ByteTokenizer(), "needs a chat template"),
        ("thinks", ByteTokenizer(), "expected one of auto, plain, think"),
    ]:
        with pytest.raises(UserError, match=words):
            find_layout(name, tokenizer).prompt_ids([{"role": "system", "content": "S"}, *messages])


def test_commands(script: Script, tmp_path: Path) -> None:
    output, log = io.StringIO(), io.StringIO()
    chat = session(script, display=PlainDisplay(output, log), system="S")
    script.texts = ["<think>t</think>1", "2", "3"]
    said = []

    def line(text: str) -> bool:
        at = len(log.getvalue())
        goes_on = chat.line(text)
        said.append(log.getvalue()[at:])
        return goes_on

    assert line("/think") and "error: no reply with thinking" in said[-1]
    assert line(f"/save {tmp_path / 'a.jsonl'}") and "error: the conversation has no reply" in said[-1]
    assert line("  hello ") and line("/think") and output.getvalue().endswith("<think>t</think>\n")
    assert line(f"/save {tmp_path / 'a.jsonl'}") and "3 messages" in said[-1]
    assert read_conversations(tmp_path / "a.jsonl") == [
        [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "1"},
        ]
    ]
    assert line("/save") and "error: /save has no file" in said[-1]
    assert line(f"/save {tmp_path}/none/a") and "cannot be written" in said[-1]
    assert line("/reset") and chat.messages == [{"role": "system", "content": "S"}]
    assert line("/system T") and line("//x") and script.prompts[-1] == "[system]T[user]/x[assistant]"
    assert line("/system") and chat.messages == []
    assert line("/nothing") and "/nothing is not a command" in said[-1]
    assert line("/help") and all(name in said[-1] for name in ("/reset", "/system", "/think", "/save", "/exit"))
    assert line("") and not line("/exit")


def test_each_turn_is_a_line_of_json(script: Script, tmp_path: Path) -> None:
    out = tmp_path / "turns.jsonl"
    chat = session(script, out=out, about={"model": "m", "seed": 0})
    script.texts = ["<think>t</think>漢", "2"]
    chat.ask("a")
    chat.ask("b")
    one, two = map(json.loads, out.read_text().splitlines())
    assert one | {"model": "m", "turn": 0, "prompt": "a", "thinking": "t", "answer": "漢", "finish": "end"} == one
    assert two["turn"] == 1 and two["tokens"] == 2 and two["seconds"] == 2.0 and two["tokens_per_second"] == 1.0
    with pytest.raises(UserError, match="cannot be written"):
        script.texts = ["x"]
        session(script, out=tmp_path).ask("a")


def test_a_pipe_gets_the_reply_alone_without_control_codes(script: Script) -> None:
    output, log = io.StringIO(), io.StringIO()
    script.texts = ["<think>a</think>b 😀"]
    session(script, display=PlainDisplay(output, log)).ask("x")
    assert output.getvalue() == "<think>a</think>b 😀\n"
    assert (
        log.getvalue().startswith("23 tokens, ") and "time to usefulness 5.00 s, compiled in 50.0 s" in log.getvalue()
    )


def screen(text: str, width: int) -> list[str]:
    """The lines that a terminal shows after the text, by the codes that move the cursor and erase."""
    lines, row, column, at = [""], 0, 0, 0
    while at < len(text):
        if text[at] == "\x1b":
            end = next(i for i in range(at + 2, len(text)) if text[i].isalpha())
            count, code = text[at + 2 : end], text[end]
            if code == "A":
                row -= int(count or 1)
            elif code == "K":
                lines[row] = ""
            at = end + 1
            continue
        if text[at] == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif text[at] == "\r":
            column = 0
        else:
            lines[row] = lines[row][:column].ljust(column) + text[at] + lines[row][column + 1 :]
            column += 1
        at += 1
    return [line.rstrip() for line in lines]


def test_a_terminal_shows_thinking_dimmed_and_then_one_line_for_it(script: Script) -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=40, height=12, color_system="standard")
    thought = "\n".join(f"line {i}" for i in range(30))
    script.texts = [f"<think>{thought}</think>\n\nThe \x1b[31manswer"]
    chat = session(script, display=TerminalDisplay(console), max_tokens=390, context=600)
    chat.ask("x")
    raw = text.getvalue()
    assert "\x1b[2mline 3" in raw and "\x1b[31m" not in raw
    shown = [line for line in screen(raw, 40) if line]
    assert shown[0].startswith("thought for ") and "(/think shows it)" in shown[0]
    assert shown[1].startswith("The \N{REPLACEMENT CHARACTER}[31manswer") and "tokens/s" in shown[2]
    assert len(shown) == 3
    chat.line("/think")
    assert all(f"line {i}" in screen(text.getvalue(), 40) for i in range(30))


def test_ctrl_c_during_compilation_draws_no_token(script: Script) -> None:
    chat = session(script, stopped=lambda: True)
    reply = chat.ask("a")
    assert (reply.finish, reply.timings.tokens, chat.messages) == ("stopped", 0, [])


def test_an_error_in_the_middle_of_the_thinking_shows_the_cursor_again() -> None:
    text = io.StringIO()
    display = TerminalDisplay(Console(file=text, force_terminal=True, width=40, height=12))
    display.show(Piece("thinking", True), Timings(1))
    hidden, shown = "\x1b[?25l", "\x1b[?25h"
    assert text.getvalue().count(hidden) == 1 and shown not in text.getvalue()
    display.close()
    display.close()
    assert text.getvalue().count(shown) == 1
