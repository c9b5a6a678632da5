"""Reports: tables, curves and HTML pages of runs."""
