"""Measures how long a frame takes and why, compared with the theoretical minimum and the PyTorch code."""
