"""Models read from files and written to them: Hugging Face folders, GGUF files, and this project's own checkpoints."""
