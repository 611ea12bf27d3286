"""Videos where something else is wanted."""

from pathlib import Path

import av

from ivggt_jax.sources.video import CONTAINERS, HEIC_BRANDS, VIDEO_SUFFIXES

ALSO_PICTURES = ("mjpeg", "mpjpeg", "gif")
"""Containers as which FFmpeg opens pictures too."""


def misnamed(path: Path) -> str | None:
    """For a file that was taken for no video: that it is one, and what to do; None if it is none."""
    known = ",".join(name for name in CONTAINERS.split(",") if name not in ALSO_PICTURES)
    try:
        if not path.is_file():
            return None
        options = {"protocol_whitelist": "file", "format_whitelist": known}
        with av.open(str(path.absolute()), options=options) as container:  # relative, a colon would end a protocol
            if not container.streams.video or container.metadata.get("major_brand") in HEIC_BRANDS:
                return None
    except Exception:  # PyAV raises almost anything on a file of another kind
        return None
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return "is a video where a picture is wanted: name it alone as the source, or several to `ivggt batch`"
    return f"is a video with the wrong ending: rename it, as to {path.with_suffix('.mp4').name}"
