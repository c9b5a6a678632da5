"""The tokens of a conversation that are learned."""

import copy
import dataclasses

import numpy as np
import pytest
from gguf import TokenType

from r1jax.data.problems.problem import Problem
from r1jax.data.text.conversations import conversation_example
from r1jax.data.text.template import TEMPLATES, completion_text
from r1jax.errors import UserError
from r1jax.tokenizer import ByteTokenizer, load_tokenizer
from tests.helpers.paths import FIXTURES
from tests.helpers.tokenizers import EXPECTED, TAGS, of_gguf, pieces

TURNS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}END{% endfor %}{% if add_generation_prompt %}[assistant]"
ENDED = TURNS.replace("END", "{{ eos_token }}\n") + "{% endif %}"
OPEN = TURNS.replace("END", "\n") + "{% endif %}"
# A template that omits the reasoning of all turns except the last.
SHORT = ENDED.replace("{{ m.content }}", "{{ m.content if loop.last else m.content.split('|')[-1] }}")


def say(*contents):
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]


def learned(example, tokenizer):
    """The learned parts as text, joined by |, with <eos> for the end token."""
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


def test_the_tokens_before_a_turn_are_the_prompt_of_the_sampler():
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
    for reasoning in ("think", "fifth"):  # the second one starts with the same letter as the answer
        with pytest.raises(UserError, match="earlier turns differently"):
            conversation_example(say("a?", f"{reasoning}|first", "b?", "second"), tokenizer)


def test_templates_that_rewrite_the_user_s_turns_are_refused():
    loud = ENDED.replace("{{ m.content }}", "{{ m.content | upper if messages | length < 2 else m.content }}")
    with pytest.raises(UserError, match="earlier turns differently"):
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


OPENED = "{% for m in messages %}[{{ m.role }}]CONTENT{{ eos_token }}\n{% endfor %}"
OPENED += "{% if add_generation_prompt %}[assistant]<think>\n{% endif %}"
CUT = "{{ m.content.split('</think>')[-1] if m.role == 'assistant' else m.content }}"
BLANK = "{{ m.content | replace('<think>', '<think>\n') | replace('</think>', '\n</think>\n\n') }}"
TWICE = "{{ '<think>\n' if m.role == 'assistant' }}{{ m.content }}"
KINDS = {
    "whole": OPENED.replace("CONTENT", "{{ m.content }}"),
    "cut": OPENED.replace("CONTENT", CUT),
    "cut, tag not opened": OPENED.replace("CONTENT", CUT).replace("<think>\n{% endif", "{% endif"),
    "block left out": OPENED.replace(
        "CONTENT", "{{ m.content.split('<think>')[0] }}{{ m.content.split('</think>')[-1] }}"
    ),
    "opened twice": OPENED.replace("CONTENT", TWICE),
    "white space of its own": OPENED.replace("CONTENT", BLANK),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reply", ["two and two</think>\n4", "4</think>4", "two</think><answer>4</answer>"])
def test_reasoning_is_learned_after_the_prompt_of_the_sampler_for_every_template(kind, reply):
    tokenizer = ByteTokenizer(KINDS[kind])
    template = TEMPLATES["r1"]
    problem = Problem("2 + 2?", "4", "number")
    text = template.opening(tokenizer) + reply
    assert text.startswith("<think>")
    messages = [*template.messages(problem), {"role": "assistant", "content": text}]
    example = conversation_example(messages, tokenizer)
    prompt = template.prompt_ids(problem, tokenizer)
    assert example.tokens[: len(prompt)].tolist() == prompt
    assert tokenizer.decode(prompt).count("<think>") == 1
    got = learned(example, tokenizer)
    if kind == "cut, tag not opened":  # without a prefill, the model has to open the tag
        got = got.removeprefix("<think>")
    assert "".join(got.split()) == "".join(f"{reply}<eos>".split())
    if kind != "white space of its own":  # whose text is not a sampled completion
        completion = [*tokenizer.encode(reply), tokenizer.eos_ids[0]]
        assert (
            got == f"{reply}<eos>" and example.tokens[: len(prompt) + len(completion)].tolist() == prompt + completion
        )


def test_a_turn_that_the_template_cuts_ends_as_the_template_ends_it():
    template = KINDS["cut"].replace("{{ eos_token }}", "<|im_end|>")
    tokenizer = load_tokenizer(FIXTURES / "tokenizers" / "gpt-2")
    tokenizer = dataclasses.replace(tokenizer, chat_template=template, eos_ids=(0, 2))  # <|endoftext|>, <|im_end|>
    for reply in ("4", "4 \n", "<answer>4</answer>"):
        example = conversation_example(say("2 + 2?", f"<think>two</think>{reply}"), tokenizer)
        text = f"[user]2 + 2?<|im_end|>\n[assistant]<think>\ntwo</think>{reply}<|im_end|>\n"
        assert example.tokens.tolist() == tokenizer.encode(text)
        assert example.mask[-2:].tolist() == [True, False]


def test_a_short_reply_that_is_part_of_the_end_token_is_separate_from_it():
    tokenizer = load_tokenizer(FIXTURES / "tokenizers" / "gpt-2")
    template = KINDS["cut"].replace("{{ eos_token }}", "<|im_end|>")
    tokenizer = dataclasses.replace(tokenizer, chat_template=template, eos_ids=(2, 0))  # <|im_end|>, <|endoftext|>
    for reply in ("d", "end", "|"):
        example = conversation_example(say("2 + 2?", f"<think>two</think>{reply}"), tokenizer)
        assert example.tokens.tolist() == tokenizer.encode(
            f"[user]2 + 2?<|im_end|>\n[assistant]<think>\ntwo</think>{reply}<|im_end|>\n"
        )


@pytest.mark.parametrize("kind", ["whole", "cut"])
@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("<think>two</think>4", "two</think>4"),  # the prompt has a line break after its tag
        ("\n <think>two</think>4", "two</think>4"),
        ("two</think>4", "two</think>4"),  # as sampled: without the tag that the prompt opened
        ("<think>\n\n</think>\n\n4", "\n</think>\n\n4"),
    ],
)
def test_a_turn_follows_the_tag_that_the_prompt_of_the_sampler_opened(kind, reply, text):
    tokenizer = ByteTokenizer(KINDS[kind])
    example = conversation_example(say("2 + 2?", reply), tokenizer)
    prompt = tokenizer.chat(say("2 + 2?"))
    assert example.tokens[: len(prompt)].tolist() == prompt and not example.mask[: len(prompt)].any()
    assert learned(example, tokenizer) == f"{text}<eos>"


REASONED = ENDED.replace("{{ m.content }}", "{% if m.thinking %}<{{ m.thinking }}>{% endif %}{{ m.content }}")


def test_reasoning_and_tool_calls_outside_the_content_are_learned_or_refused():
    for key, value in (("reasoning_content", "two"), ("thinking", "two"), ("tool_calls", [{"name": "add"}])):
        messages = [*say("2 + 2?"), {"role": "assistant", "content": "4", key: value}]
        if key != "thinking":
            with pytest.raises(UserError, match=f"leaves out {key} of the assistant's turn"):
                conversation_example(messages, ByteTokenizer(REASONED))
        else:
            tokenizer = ByteTokenizer(REASONED)
            assert learned(conversation_example(messages, tokenizer), tokenizer) == "<two>4<eos>"
    # Llama 3's template writes such a message elsewhere or not at all.
    silent = ENDED.replace("%}[{{", "if not m.tool_calls %}[{{", 1)
    with pytest.raises(UserError, match="leaves out tool_calls"):
        conversation_example([*messages, *say("2 + 2?", "It is 4.")], ByteTokenizer(silent))
    both = [*say("2 + 2?"), {"role": "assistant", "content": "<think>two</think>4", "reasoning_content": "two"}]
    assert learned(conversation_example(both, tokenizer), tokenizer) == "<think>two</think>4<eos>"


def test_a_conversation_may_begin_with_the_assistant():
    tokenizer = ByteTokenizer("{{ bos_token }}[system]Be kind.{{ eos_token }}" + ENDED)
    messages = [{"role": "assistant", "content": "Hello"}, *say("a?", "first")]
    assert learned(conversation_example(messages, tokenizer), tokenizer) == "Hello<eos>|first<eos>"


def test_templates_that_omit_earlier_reasoning_are_refused():
    for kind in ("cut", "block left out"):
        turns = say("a?", "<think>one</think>1", "b?", "<think>two</think>2")
        with pytest.raises(UserError, match="split the conversation"):
            conversation_example(turns, ByteTokenizer(KINDS[kind]))


GENERATION = (
    "{% for m in messages %}\n<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}\n  {%- generation -%}  {{ m.content }}<|im_end|>{% endgeneration %}\n"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}\n\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("name", sorted(EXPECTED["ids"]))
def test_generation_tags_give_the_mask_of_transformers(name):
    tokenizer = dataclasses.replace(load_tokenizer(FIXTURES / "tokenizers" / name), chat_template=GENERATION)
    example = conversation_example(say("a?", "It is 1.", "b?", "2, then"), tokenizer)
    # The expected mask is that of transformers 5.24 with return_assistant_tokens_mask.
    expected = np.zeros(57, bool)
    expected[21:29] = expected[51:56] = True
    assert example.mask.tolist() == expected.tolist()
    assert example.tokens[[28, 55]].tolist() == [tokenizer.eos_ids[0]] * 2
    assert tokenizer.chat(say("a?"))[-1] == tokenizer.encode("\n")[0]


def test_an_end_token_after_the_generation_tags_is_learned():
    template = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}|{% else %}"
    template += "{% generation %}{{ m.content }}{% endgeneration %}END{% endif %}{% endfor %}"
    for end, text in (("{{ eos_token }}\n", "first<eos>|second<eos>"), (";", "first|second;<eos>")):
        tokenizer = ByteTokenizer(template.replace("END", end))
        assert learned(conversation_example(say("a?", "first", "b?", "second"), tokenizer), tokenizer) == text


def test_what_the_generation_tags_leave_out_is_not_learned():
    template = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% else %}"
    template += "Hm. {% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
    tokenizer = ByteTokenizer(template)
    assert learned(conversation_example(say("a?", "first"), tokenizer), tokenizer) == "first<eos>"


# Like Llama 2's template: the prompt is the user's turn, and the reply may start with white space.
INST = "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}SPACE{{ m.content }}{{ eos_token }}"
INST += "{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
CHATML += "{% if add_generation_prompt %}<|im_start|>assistant\nOPEN{% endif %}"
TEMPLATE_KINDS = {
    "inst": INST.replace("SPACE", ""),
    "inst with a space": INST.replace("SPACE", " "),
    "chatml": CHATML.replace("OPEN", ""),
    "chatml opened": CHATML.replace("OPEN", "<think>\n"),
    "chatml opened and cut": CHATML.replace("OPEN", "<think>\n").replace(
        "m.content", "m.content.split('</think>')[-1]"
    ),
}


def vocabularies(folder):
    """Every kind of tokenizer, with tags as text, as pieces, or as control tokens."""
    found = {name: load_tokenizer(FIXTURES / "tokenizers" / name) for name in sorted(EXPECTED["ids"])}
    found |= {name: load_tokenizer(FIXTURES / name) for name in ("llama_tied", "qwen3")} | {"bytes": ByteTokenizer()}
    found |= {f"gguf {kind.name}": of_gguf(kind) for kind in (TokenType.CONTROL, TokenType.NORMAL)}
    for i, settings in enumerate(({}, {"user_defined_symbols": TAGS}, {"control_symbols": TAGS})):
        for legacy in (True, False):
            name = f"sentencepiece {i} {legacy}"
            found[name] = load_tokenizer(pieces(folder / name, {"legacy": legacy}, **settings))
    return found


@pytest.fixture(scope="module")
def all_vocabularies(tmp_path_factory):
    return vocabularies(tmp_path_factory.mktemp("vocabularies"))


@pytest.mark.parametrize("kind", TEMPLATE_KINDS)
def test_reinforcement_learning_and_fine_tuning_split_a_conversation_alike(kind, all_vocabularies):
    problem, template = Problem("add 7 and five", "12", "number"), TEMPLATES["r1"]
    for name, tokenizer in all_vocabularies.items():
        tokenizer = copy.copy(tokenizer)
        object.__setattr__(tokenizer, "chat_template", TEMPLATE_KINDS[kind])
        prompt = template.prompt_ids(problem, tokenizer)
        for reply in (
            "seven and five</think><answer>12</answer>",
            " seven</think>\n12",
            "\n7 + 5 = 12\n</think>\n\n12",
        ):
            sampled = [*behind(reply, tokenizer), tokenizer.eos_ids[0]]
            text = template.opening(tokenizer) + completion_text(sampled, prompt, tokenizer)
            messages = [*template.messages(problem), {"role": "assistant", "content": text}]
            tokens = conversation_example(messages, tokenizer).tokens.tolist()
            assert tokens[: len(prompt)] == prompt, (name, reply)
            # These tokenizers put a space before a text after a tag, even if none was sampled.
            if name != "sentencepiece 2 True" or kind == "chatml opened" or kind == "chatml opened and cut":
                assert text == template.opening(tokenizer) + reply, (name, reply)
                assert tokens[: len(prompt) + len(sampled)] == prompt + sampled, (name, reply)


def behind(text, tokenizer):
    """Ids of a text after another text, here the tilde."""
    return (
        tokenizer.encode("~" + text)[len(tokenizer.encode("~")) :]
        if "▁" in tokenizer.token(tokenizer.encode("a")[0])
        else tokenizer.encode(text)
    )
