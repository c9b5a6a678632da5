"""Data sets as rows, from files, folders and the hub; conversations, and preferences for reward models."""
