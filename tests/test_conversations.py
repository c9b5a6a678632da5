"""What of a conversation is learned."""

import dataclasses

import pytest

from r1jax.data.conversations import conversation_example
from r1jax.errors import UserError
from r1jax.tokenizer import ByteTokenizer, load_tokenizer
from tests.test_tokenizer import FIXTURES

TURNS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}END{% endfor %}{% if add_generation_prompt %}[assistant]"
ENDED = TURNS.replace("END", "{{ eos_token }}\n") + "{% endif %}"
OPEN = TURNS.replace("END", "\n") + "{% endif %}"
# Leaves out the reasoning of all turns but the last.
SHORT = ENDED.replace("{{ m.content }}", "{{ m.content if loop.last else m.content.split('|')[-1] }}")


def say(*contents):
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]


def learned(example, tokenizer):
    """The marked stretches as text, with | between them; <eos> for the end token."""
    parts, before = [], False
    for token, marked in zip(example.tokens.tolist(), example.mask.tolist(), strict=True):
        if marked:
            text = "<eos>" if token in tokenizer.eos_ids else tokenizer.decode([token])
            parts.append(text if before or not parts else "|" + text)
        before = marked
    return "".join(parts)


def test_the_answer_and_its_end_token_are_learned():
    tokenizer = ByteTokenizer(ENDED)
    example = conversation_example(say("2 + 2?", "It is 4."), tokenizer)
    assert learned(example, tokenizer) == "It is 4.<eos>"
    assert example.tokens.tolist() == tokenizer.chat(say("2 + 2?", "It is 4."), add_generation_prompt=False)


def test_each_turn_of_the_assistant_is_learned():
    tokenizer = ByteTokenizer(ENDED)
    example = conversation_example(say("a?", "first", "b?", "second"), tokenizer)
    assert learned(example, tokenizer) == "first<eos>|second<eos>"


def test_an_end_token_is_added_where_the_template_has_none():
    tokenizer = ByteTokenizer(OPEN)
    assert learned(conversation_example(say("a?", "first", "b?", "second"), tokenizer), tokenizer) == (
        "first\n|second\n<eos>"
    )


def test_what_is_read_is_the_prompt_that_the_sampler_is_given():
    tokenizer = load_tokenizer(FIXTURES / "qwen2")
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = dataclasses.replace(tokenizer, chat_template=template)
    messages = say("What is 2 + 2?", "It is 4.")
    example = conversation_example(messages, tokenizer)
    prompt = tokenizer.chat(messages[:1])
    assert example.tokens[: len(prompt)].tolist() == prompt
    assert not example.mask[: len(prompt)].any() and example.mask[len(prompt)]


def test_templates_that_rewrite_earlier_turns_are_refused_and_single_turns_are_not():
    tokenizer = ByteTokenizer(SHORT)
    assert learned(conversation_example(say("a?", "think|first"), tokenizer), tokenizer) == "think|first<eos>"
    for reasoning in ("think", "fifth"):  # the second begins as the answer does
        with pytest.raises(UserError, match="earlier turns otherwise"):
            conversation_example(say("a?", f"{reasoning}|first", "b?", "second"), tokenizer)


def test_templates_that_rewrite_what_is_read_are_refused():
    loud = ENDED.replace("{{ m.content }}", "{{ m.content | upper if messages | length < 2 else m.content }}")
    with pytest.raises(UserError, match="earlier turns otherwise"):
        conversation_example(say("what?", "first"), ByteTokenizer(loud))


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "must end with"),
        (say("a?"), "must end with"),
        ([{"role": "user"}, {"role": "assistant", "content": "x"}], "role and content"),
        ([{"role": "user", "content": 3}, {"role": "assistant", "content": "x"}], "role and content"),
    ],
)
def test_wrong_conversations_are_refused(messages, message):
    with pytest.raises(UserError, match=message):
        conversation_example(messages, ByteTokenizer(ENDED))
