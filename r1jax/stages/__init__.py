"""Stages: functions from checkpoints and data to a checkpoint."""
