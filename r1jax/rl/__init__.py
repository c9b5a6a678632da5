"""Reinforcement learning: rollouts, batches, updates and the step that joins them."""
