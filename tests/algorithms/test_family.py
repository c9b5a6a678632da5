"""The table of what algorithms differ in."""

from r1jax.algorithms.family import family
from r1jax.algorithms.table import ALGORITHMS


def test_the_table_says_what_the_papers_say():
    table = family()
    assert list(table) == list(ALGORITHMS)
    assert table["grpo"]["baseline"] == "group, / std of the group" and table["dr-grpo"]["baseline"] == "group"
    assert table["rloo"]["baseline"] == "others of the group" and "batch" in table["reinforce++"]["baseline"]
    assert "critic" in table["ppo"]["baseline"] and "process rewards" in table["prime"]["baseline"]
    assert table["dapo"]["clip"] == "0.8 to 1.28" and table["cispo"]["clip"] == "0 to 5 as a weight"
    assert [name for name in table if table[name]["ratio"] == "of a sequence"] == ["gspo"]
    assert [name for name in table if table[name]["groups"] == "all"] == [
        *("grpo", "dr-grpo", "rloo", "reinforce++", "gspo", "ppo")
    ]
    assert table["ppo"]["learned models"] == "policy, critic" and table["prime"]["learned models"] == "policy, prm"
    assert table["rloo"]["KL weight"] == "0.03"
