"""Training: optimiser, state, gradients, metrics and the loop around them."""
