"""Sources of problems: generators and files, which problems are held out, and which ones a step asks."""
