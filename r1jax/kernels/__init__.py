"""Kernels written by hand where a measured gain pays for them, each beside a function in plain JAX that it equals."""
