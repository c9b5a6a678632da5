"""Where problems and texts come from, and how they become prompts."""
