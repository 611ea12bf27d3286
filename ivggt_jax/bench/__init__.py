"""Measuring: how long a frame takes and why, beside what it must take at least and beside the PyTorch code."""
