"""A pipeline: stages with folders, manifests, resuming and plans, for stages of any kind."""
