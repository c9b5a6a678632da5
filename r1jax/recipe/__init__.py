"""The stages of DeepSeek-R1, each a function from checkpoints and data sets to a checkpoint or a data set."""
