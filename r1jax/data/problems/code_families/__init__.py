"""The families of generated code problems: subjects, each with templates of functions to write."""

from r1jax.data.problems.code_families.lists import LISTS
from r1jax.data.problems.code_families.numbers import NUMBERS
from r1jax.data.problems.code_families.structures import STRUCTURES
from r1jax.data.problems.code_families.texts import TEXTS

FAMILIES = TEXTS | NUMBERS | LISTS | STRUCTURES
