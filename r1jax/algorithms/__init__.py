"""Algorithms of reinforcement learning and their terms: functions of arrays, without models or I/O."""
