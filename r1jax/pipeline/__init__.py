"""Stages as a graph: folders, manifests, resuming and plans, for stages of any kind."""
