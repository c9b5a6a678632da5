"""Benchmarks: timed workloads, collectives, scaling over meshes, and estimates for meshes without hardware."""
