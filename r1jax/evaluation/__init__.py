"""Figures of sampled answers (pass@k, maj@k, intervals) and the tables and pictures that show them."""
