"""Texts: templates, conversations, languages, numbers, packing and synthetic corpora."""
