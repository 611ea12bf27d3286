"""Distillation and supervised training."""
