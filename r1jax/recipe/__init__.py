"""The stages of DeepSeek-R1, one a file, and the table that composes them."""
