"""Sources of problems, and which problems are held out."""
