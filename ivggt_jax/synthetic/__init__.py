"""Textured scenes with exact cameras, depth, points and tracks, rendered on the fly from random keys."""

from .clips import Clip, clip
from .paths import Look, camera_path
from .rendering import SyntheticFrame, each_camera, render, tracks
from .scenes import Kind, Scene, make_scene

__all__ = [
    "Clip",
    "Kind",
    "Look",
    "Scene",
    "SyntheticFrame",
    "camera_path",
    "clip",
    "each_camera",
    "make_scene",
    "render",
    "tracks",
]
