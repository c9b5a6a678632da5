"""Templates: their prompts, and what they read from a completion."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import pytest

from r1jax.data.problems import countdown, gym, word_problems
from r1jax.data.problems.problem import Problem
from r1jax.data.text.template import TEMPLATES, completion_text, find_template
from r1jax.errors import UserError
from r1jax.tokenizer import ByteTokenizer, JsonTokenizer, Rendered

PROBLEM = Problem("37 + 48", "85", "arithmetic")
BOS = 256


class Bytes:
    """A token for each byte, and a chat template that shows its structure."""

    vocab_size, pad_id, eos_ids = 258, 257, (257,)

    def __init__(self, bos_id: int | None = BOS, opened: str = "") -> None:
        self.bos_id, self.opened = bos_id, opened

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode()

    def render(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> Rendered:
        turns = "".join(f"[{m['role']}|{m['content']}]" for m in messages)
        return Rendered(turns + f"[assistant|{self.opened}" * add_generation_prompt)


def prompt(name: str) -> list[int]:
    return TEMPLATES[name].prompt_ids(PROBLEM, Bytes())  # pyright: ignore[reportArgumentType]


def test_think_asks_only_the_question() -> None:
    assert prompt("think") == [BOS, *b"37 + 48 = ?\n<think>"]


def test_plain_prompts_need_no_bos() -> None:
    ids = TEMPLATES["think"].prompt_ids(PROBLEM, Bytes(bos_id=None))  # pyright: ignore[reportArgumentType]
    assert ids == list(b"37 + 48 = ?\n<think>")


def test_r1_zero_describes_the_tags_and_opens_the_first() -> None:
    bos, *rest = prompt("r1-zero")
    text = bytes(rest).decode()
    assert bos == BOS
    assert text.endswith("User: 37 + 48\n\nAssistant:\n<think>")
    instruction = text.partition("User:")[0]
    assert all(tag in instruction for tag in ("<think>", "</think>", "<answer>", "</answer>"))


def test_r1_zero_chat_has_the_same_instruction_as_system_message() -> None:
    text = bytes(prompt("r1-zero-chat")).decode()
    plain = bytes(prompt("r1-zero")[1:]).decode()
    instruction = plain.partition("\n\nUser:")[0]
    assert text == f"[system|{instruction}][user|37 + 48][assistant|<think>"


def test_number_asks_for_the_number_without_tags_or_prefill() -> None:
    text = bytes(prompt("number")).decode()
    assert text.startswith("[user|") and "37 + 48" in text and "number" in text
    assert text.endswith("][assistant|") and "<" not in text


def test_questions_may_hold_braces() -> None:
    ids = TEMPLATES["think"].prompt_ids(Problem("{x} {question}", "1", "a"), Bytes())  # pyright: ignore[reportArgumentType]
    assert bytes(ids[1:]).decode().startswith("{x} {question}\n")


def text_of(name: str, question: str) -> str:
    ids = TEMPLATES[name].prompt_ids(Problem(question, "3", "own"), Bytes(None))  # pyright: ignore[reportArgumentType]
    return bytes(ids).decode()


@pytest.mark.parametrize(
    "question",
    [
        "What is 0 + 3?",
        "0 + 3 =",
        "0 + 3 = ?",
        "x + 3",
        "3 \u52a0 4 \u7b49\u4e8e\u591a\u5c11\uff1f",
        "Make 5 from 2 and 3.",
    ],
)
def test_questions_are_asked_unchanged(question: str) -> None:
    assert text_of("think", question) == f"{question}\n<think>"
    assert text_of("number", question) == f"[user|{question} Answer with just the number.][assistant|"
    assert text_of("r1", question) == f"[user|{question}][assistant|<think>"
    for name in TEMPLATES:
        assert question in text_of(name, question)


@pytest.mark.parametrize(
    "expression", ["0 + 3", "37 - 48 * 2", "(3 + 4) * 5", "2 * (3 + 4)", "-3 + 4", "3.5 / 7", "12"]
)
def test_bare_expressions_are_made_into_questions(expression: str) -> None:
    assert text_of("think", expression) == f"{expression} = ?\n<think>"
    assert text_of("number", expression) == f"[user|What is {expression}? Answer with just the number.][assistant|"
    assert text_of("direct", expression) == f"[user|{expression} Answer with just the number.][assistant|"


def test_gym_problems_and_word_problems_are_asked_unchanged() -> None:
    sources = (gym.generate("chain_sum", 0), word_problems.generate(2, "+-", 0), countdown.generate(2, "+-", 3, 0))
    for source in sources:
        for _, problem in itertools.islice(source, 20):
            assert text_of("think", problem.question) == f"{problem.question}\n<think>"


@pytest.mark.parametrize("opened", ["", "<think>", "<think>\n", "<think>\n\n", "<think>\n\n</think>\n\n"])
@pytest.mark.parametrize("name", ["r1", "r1-zero-chat", "number"])
def test_a_tag_that_the_chat_template_opens_is_not_opened_again(name: str, opened: str) -> None:
    template, tokenizer = TEMPLATES[name], Bytes(opened=opened)
    still_open = opened if opened and "</think>" not in opened else ""
    given = still_open or opened + template.prefill
    ids = template.prompt_ids(PROBLEM, tokenizer)  # pyright: ignore[reportArgumentType]
    assert bytes(ids).decode().rpartition("[assistant|")[2] == given
    assert template.opening(tokenizer) == (still_open or template.prefill)  # pyright: ignore[reportArgumentType]


def test_plain_prompts_open_with_their_prefill() -> None:
    assert TEMPLATES["think"].opening(Bytes(opened="<think>\n")) == "<think>"  # pyright: ignore[reportArgumentType]


def test_a_longer_prefill_continues_the_prompt_of_the_chat_template() -> None:
    template = dataclasses.replace(TEMPLATES["r1"], prefill="<think>\nFirst")
    for opened, opening in (("", "<think>\nFirst"), ("<think>", "<think>\nFirst"), ("<think>\n", "<think>\nFirst")):
        assert template.opening(Bytes(opened=opened)) == opening  # pyright: ignore[reportArgumentType]


def test_end_tokens_are_removed_from_a_completion_by_their_ids() -> None:
    tokenizer = ByteTokenizer()
    fields = {"backend": tokenizer.backend, "bos_id": None, "pad_id": 258}
    plain = JsonTokenizer(**fields, eos_ids=(257, ord(".")))
    assert completion_text([*b"4", 257], b"ab", tokenizer) == completion_text([*b"4", ord(".")], b"ab", plain) == "4"
    assert completion_text([*b"4.5"], [], plain) == "4.5"
    assert completion_text([], b"ab", tokenizer) == completion_text([257], b"ab", tokenizer) == ""


@pytest.mark.parametrize(
    ("text", "well_formed", "answer", "reasoning"),
    [
        ("<think>7+8</think><answer>85</answer>", True, "85", "7+8"),
        ("<think>7+8\n </think>\n<answer> 85 </answer>\n", True, "85", "7+8"),
        ("<think></think><answer></answer>", True, "", ""),
        ("<think>7+8</think>so<answer>85</answer>", False, "85", "7+8"),
        ("so <think>7+8</think><answer>85</answer>", False, "85", "7+8"),
        ("<think>7+8</think><answer>85</answer> done", False, "85", "7+8"),
        ("<think>7+8</think>", False, None, "7+8"),
        ("<think>7+8 <answer>85</answer>", False, None, None),
        ("<think>7+8 <answer>85</answer> and on", False, None, None),
        ("<think>8 <answer>8</answer> no</think><answer>85</answer>", False, "85", "8 <answer>8</answer> no"),
        ("7+8</think><answer>85</answer>", False, "85", None),
        ("7+8 <answer>8</answer></think>", False, None, None),
        ("<think>a</think><think>b <answer>85</answer>", False, None, None),
        ("<answer>85</answer>", False, "85", None),
        ("<think>7+8</think><answer>85", False, None, "7+8"),
        ("<think>a</think><answer>1</answer><answer>2</answer>", False, None, "a"),
        ("<think>a</think><think>b</think><answer>1</answer>", False, "1", None),
        ("<think><think>a</think><answer>1</answer>", False, "1", None),
        ("<answer>1</answer><think>a</think>", False, "1", "a"),
        ("<think>a<answer>1</answer></think>", False, None, "a<answer>1</answer>"),
        ("</think>a<think></answer>1<answer>", False, None, None),
        ("85", False, None, None),
    ],
)
def test_tags(text: str, well_formed: bool, answer: str | None, reasoning: str | None) -> None:
    for name in ("think", "r1-zero", "r1-zero-chat"):
        template = TEMPLATES[name]
        assert template.well_formed(text) is well_formed
        assert template.answer(text) == answer
        assert template.reasoning(text) == reasoning


@pytest.mark.parametrize(
    ("text", "well_formed", "answer"),
    [
        (" 85\n", True, "85"),
        ("-1,000.5", True, "-1,000.5"),
        ("It is 85, not 8.", False, "8"),
        ("88-3", False, None),
        ("8 * 6 = 48", False, "48"),
        ("The answer is 3", False, "3"),
        ("x = -5", False, "-5"),
        ("0 + 3 = RIVANT", False, "0 + 3 = RIVANT"),
        ("0+3 = \\text{RIVANT}", False, "0+3 = \\text{RIVANT}"),
        ("0 + 3 = ", False, None),
        ("0 + 3 = ?", False, None),
        ("0 + 3", False, None),
        ("0 + (3)", False, None),
        ("0 + 3 = 3 + 0", False, None),
        ("12 / 4", True, None),
        ("What is the sum of 0 and 3?", False, "What is the sum of 0 and 3?"),
        ("12 + -3 is 9; no, -9", False, "-9"),
        ("no idea ", False, "no idea"),
        ("", False, ""),
    ],
)
def test_without_tags_the_answer_is_the_result_of_the_text(text: str, well_formed: bool, answer: str | None) -> None:
    template = TEMPLATES["number"]
    assert template.well_formed(text) is well_formed
    assert template.answer(text) == answer
    assert template.reasoning(text) is None


@pytest.mark.parametrize(
    ("text", "well_formed", "answer", "reasoning"),
    [
        ("7 and 8 are 15.\nThe answer is 85.", True, "85", "7 and 8 are 15."),
        ("The answer is 85", False, "85", ""),
        ("So: The answer is 85 apples.", False, "85", "So:"),
        ("The answer is 8. No, The answer is 85", False, "85", None),
        ("It is 85.", False, None, None),
        ("7 and 8 are 15, then 70", False, None, None),
        ("7 and 8 are 15.\nThe answer is", False, None, "7 and 8 are 15."),
        ("7 and 8 are 15.\nThe answer is 37 + 48", False, None, "7 and 8 are 15."),
        ("7 and 8 are 15.\nThe answer is 37 + 48 = 85.", False, "85", "7 and 8 are 15."),
        ("7 and 8 are 15. Therefore, the answer is:\n\\[\n\\boxed{85}\n\\]", False, "85", None),
        ("So \\(\\boxed{70}\\), no: Ann has \\(\\boxed{85}\\) apples left.", False, "85", None),
        ("It is $\\boxed{\\text{85}}$ after 9 days.", False, "85", None),
        ("It is \\boxed{85", False, None, None),
        ("It is \\boxed{}.", False, None, None),
        ("The answer is 8, which I write \\boxed{85}", False, "85", ""),
        ("\\boxed{8}. The answer is 85.", True, "85", "\\boxed{8}."),
    ],
)
def test_a_conclusion_stands_between_reasoning_and_answer(
    text: str, well_formed: bool, answer: str, reasoning: str | None
) -> None:
    template = TEMPLATES["steps"]
    assert template.conclusion in template.instruction and template.prefill == ""
    assert template.well_formed(text) is well_formed
    assert template.answer(text) == answer
    assert template.reasoning(text) == reasoning


def test_an_unknown_template_suggests_similar_names() -> None:
    assert find_template("think") is TEMPLATES["think"]
    with pytest.raises(UserError, match="unknown template 'r1_zero': did you mean r1-zero"):
        find_template("r1_zero")


def test_a_program_in_the_reasoning_is_no_answer_of_the_code_template() -> None:
    template, block = find_template("code"), "```python\npass\n```"
    assert template.answer(f"<think>{block}</think> Done.") == "Done."
    assert template.answer(f"<think>hm</think>\n{block}\n") == block
    assert template.answer(f"<think>{block}") is None


def test_blocks_in_the_reasoning_do_not_change_the_form_of_the_code_template() -> None:
    template, block = find_template("code"), "```python\npass\n```"
    inside = f"I try\n{block}\nand\n```\nno\n```\n"
    for reasoning in (f"<think>{inside}</think>", f"{inside}</think>"):  # the prompt may open the reasoning
        assert template.well_formed(f"{reasoning}\n{block}\nDone.")
        assert not template.well_formed(f"{reasoning}\nDone.")
        assert not template.well_formed(f"{reasoning}\n{block}\n{block}")
        assert not template.well_formed(f"{reasoning}\n```python\npass")
    assert not template.well_formed(f"<think>{inside}\n{block}")


def test_a_prompt_is_made_once() -> None:
    made: list[str] = []

    class Counting(Bytes):
        def encode(self, text: str) -> list[int]:
            made.append(text)
            return super().encode(text)

    template, tokenizer = TEMPLATES["think"], Counting()
    first = template.prompt_ids(PROBLEM, tokenizer)  # pyright: ignore[reportArgumentType]
    first.append(0)  # belongs to the caller
    for problem, count in ((PROBLEM, 1), (dataclasses.replace(PROBLEM, question="What is 1 + 1?"), 2)):
        assert template.prompt_ids(problem, tokenizer)[-1] != 0 and len(made) == count  # pyright: ignore[reportArgumentType]
