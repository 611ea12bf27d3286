"""Calibrated cameras: lens models, calibration files, and undistortion."""
