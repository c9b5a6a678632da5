"""Ablations: the whole loop of reinforcement learning of a small model as one program for many arms."""
