"""Reports of runs: tables, pictures, and Markdown and HTML pages."""
