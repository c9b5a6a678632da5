"""Chat templates against the texts of transformers, and their errors."""

from __future__ import annotations

import json

import pytest

from r1jax.errors import UserError
from r1jax.tokenizer import ByteTokenizer, load_tokenizer
from r1jax.tokenizer.chat import render
from tests.helpers.paths import FIXTURES

CHATS = json.loads((FIXTURES / "chats.json").read_text())
USER = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("chat", CHATS)
def test_templates_render_as_in_transformers(chat: dict) -> None:
    text = render(chat["template"], chat["messages"], "<s>", "</s>", chat["add_generation_prompt"]).text
    assert text == chat["text"]


def test_chat_is_the_encoded_template() -> None:
    tokenizer = load_tokenizer(FIXTURES / "llama_tied")
    with_prompt = tokenizer.chat(USER)
    assert with_prompt == tokenizer.encode("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.chat(USER, add_generation_prompt=False) == with_prompt[: -len(tokenizer.encode("assistant\n")) - 1]


def test_template_refusal_is_one_line() -> None:
    tokenizer = load_tokenizer(FIXTURES / "llama_tied")
    with pytest.raises(UserError, match=r"roles: tool\): unknown role tool$"):
        tokenizer.chat([{"role": "tool", "content": "hi"}])
    with pytest.raises(UserError, match="no chat template"):
        ByteTokenizer().chat(USER)


@pytest.mark.parametrize("template", ["{{ ''.__class__.__mro__ }}", "{% for %}", "{{ messages.append(1) }}"])
def test_templates_are_held_in_a_sandbox(template: str) -> None:
    with pytest.raises(UserError, match="chat template"):
        ByteTokenizer(template).chat(USER)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        ("{{ messages + 1 }}", "TypeError: can only concatenate list"),
        ("{{ messages[0].content.join(5) }}", "TypeError: "),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError: "),
        ("{{ 'a'.encode('nope') }}", "LookupError: "),
        ("{{ '%d' % 'a' }}", "TypeError: "),
        ("{{ [1][messages[0].content.index('z')] }}", "ValueError: "),
        ("{% generation %}{{ messages[0].content }}", "Unexpected end of template"),
        ("{% for m in messages %}{% generation %}{% break %}{% endgeneration %}{% endfor %}", "SyntaxError: "),
        ("{{ " + "(" * 5000 + ")" * 5000 + " }}", "Error: "),
        ({"default": "a"}, "TypeError: "),
        (7, "TypeError: "),
    ],
)
def test_whatever_a_template_raises_is_one_line(template: str, reason: str) -> None:
    with pytest.raises(UserError) as caught:
        ByteTokenizer(template).chat(USER)
    message = str(caught.value)
    assert message.startswith("the chat template refuses these messages (roles: user): ")
    assert reason in message and "\n" not in message
