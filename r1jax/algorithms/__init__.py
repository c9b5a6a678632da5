"""Array functions of reinforcement learning: no model, no input or output."""
