"""Data: sources of problems, texts made from them, and file formats."""
