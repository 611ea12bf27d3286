"""Checkpoints: format, lookup and download."""
