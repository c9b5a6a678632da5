"""Problems in two languages, general prompts, and completions with the template of the recipe."""

from r1jax.data.problems import general
from r1jax.data.problems.dataset import ProblemsConfig, load_problems
from r1jax.data.problems.problem import Problem
from r1jax.data.text.template import find_template
from r1jax.rewards import Completion

R1 = find_template("r1")
WORDS = load_problems(ProblemsConfig(source="word-problems"))
GENERAL = [prompt for _, prompt in general.generate_prompts(0)]


def completion(text, finished=True):
    return Completion(text=text, tokens=9, limit=72, finished=finished, template=R1)


EN = Problem("What is 37 + 48?", "85", "sum", language="en")
ZH = Problem("37 + 48 等于多少？", "85", "sum", language="zh")
