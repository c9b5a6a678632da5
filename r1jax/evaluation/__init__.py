"""Evaluation of models: pass@k, maj@k, their intervals, and paired changes."""
