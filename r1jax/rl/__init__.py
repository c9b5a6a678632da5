"""Reinforcement learning: one step, its rollouts, batches and updates, and the training loop around it."""
