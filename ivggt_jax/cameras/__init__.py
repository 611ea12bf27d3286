"""Calibrated cameras: what a lens does to a picture, files that say so, and undoing it."""
