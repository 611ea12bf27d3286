"""Runs `infer` on many videos, in processes of one machine or on a Ray cluster."""
