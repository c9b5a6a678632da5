"""A conversation with a model: prompts, replies with their timings, the display and the commands."""
