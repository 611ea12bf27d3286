"""Shared file handling: text in any encoding, strict JSON, and atomic replacement."""
