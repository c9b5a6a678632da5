"""The decoder: its config, its weights as data, and its forward pass."""
