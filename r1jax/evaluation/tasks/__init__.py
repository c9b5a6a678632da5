"""Tasks of an evaluation as data: where their problems come from, how they are asked, and how answers are read."""
