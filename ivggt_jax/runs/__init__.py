"""Shared by commands: a run over frames, its folder, its saved state, its messages."""
