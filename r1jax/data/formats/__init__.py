"""File formats of data sets: rows of JSON lines and parquet, conversations, and preferences for reward models."""
