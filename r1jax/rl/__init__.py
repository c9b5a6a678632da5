"""Reinforcement learning: a step on a page, its rollouts, batches and updates, and the training around it."""
