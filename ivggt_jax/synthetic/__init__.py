"""Textured scenes with exact cameras, depth, points and tracks, rendered on the fly from random keys."""

from .bodies import moving_bodies
from .clips import Clip, clip
from .defects import Defects, random_defects, recompressed, taken
from .light import Light, changing_light
from .paths import Look, camera_path, returning_path
from .rendering import SyntheticFrame, each_camera, render, tracks
from .scenes import Kind, Scene, make_scene
from .sensor import Sensor, measure, random_sensor

__all__ = [
    "Clip",
    "Defects",
    "Kind",
    "Light",
    "Look",
    "Scene",
    "Sensor",
    "SyntheticFrame",
    "camera_path",
    "changing_light",
    "clip",
    "each_camera",
    "make_scene",
    "measure",
    "moving_bodies",
    "random_defects",
    "random_sensor",
    "recompressed",
    "render",
    "returning_path",
    "taken",
    "tracks",
]
