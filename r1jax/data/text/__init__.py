"""Texts: templates, conversations, languages, numbers, packing, worked solutions, readability, synthetic corpora."""
