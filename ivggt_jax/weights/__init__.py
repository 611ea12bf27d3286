"""Checkpoints: their format, where they are found, and downloads."""
