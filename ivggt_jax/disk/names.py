"""Names that file systems take, made of others: with something before or after them they may be too long."""

import hashlib
import os

LONGEST = 255
"""Bytes of a name, on nearly every file system."""
FINGERPRINT = 16
"""Letters that tell apart what begins alike."""


def fitting_name(before: str, name: str, after: str = "") -> str:
    """`before`, `name` and `after` as one name; where it would be too long, the end of `name` becomes its fingerprint."""
    whole = f"{before}{name}{after}"
    if len(os.fsencode(whole)) <= LONGEST:
        return whole
    fingerprint = f"-{hashlib.sha256(os.fsencode(name)).hexdigest()[:FINGERPRINT]}"
    room = LONGEST - len(os.fsencode(f"{before}{fingerprint}{after}"))
    beginning = os.fsencode(name)[:room].decode(errors="ignore")  # without a part of a letter
    return f"{before}{beginning}{fingerprint}{after}"
