"""File names built from other names; with prefix and suffix these may be too long for a file system."""

import hashlib
import os

LONGEST = 255
"""Longest name in bytes on nearly every file system."""
FINGERPRINT = 16
"""Length of the hash that distinguishes names with equal beginnings."""


def fitting_name(before: str, name: str, after: str = "") -> str:
    """`before`, `name` and `after` as one name; if it is too long, the end of `name` is replaced by a hash."""
    whole = f"{before}{name}{after}"
    if len(os.fsencode(whole)) <= LONGEST:
        return whole
    fingerprint = f"-{hashlib.sha256(os.fsencode(name)).hexdigest()[:FINGERPRINT]}"
    room = LONGEST - len(os.fsencode(f"{before}{fingerprint}{after}"))
    beginning = os.fsencode(name)[:room].decode(errors="ignore")  # without a partial character
    return f"{before}{beginning}{fingerprint}{after}"
