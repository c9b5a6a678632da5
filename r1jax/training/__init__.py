"""State, rollout, update and the loop around them."""
