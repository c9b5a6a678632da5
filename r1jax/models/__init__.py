"""The decoder: config, parameter specs and forward pass."""
