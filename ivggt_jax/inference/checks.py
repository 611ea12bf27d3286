"""Detects contradictory options of `infer` before anything is read."""

from importlib import import_module

from ivggt_jax.inference.options import InferConfig
from ivggt_jax.options.export import FORMATS
from ivggt_jax.runs.address import check_port
from ivggt_jax.runs.fitting import parse_memory


def check(config: InferConfig) -> None:
    """Raises ValueError when options contradict each other."""
    # Not in the dataclass, because tyro would put a frame around the message and break it into short lines.
    if config.overwrite and config.resume:
        raise ValueError("--overwrite and --resume contradict each other: give one of them")
    if config.save_every is not None and config.save_every < 0:
        raise ValueError(f"--save-every must be 0 or more frames, not {config.save_every}")
    if config.memory.max_memory is not None:
        parse_memory(config.memory.max_memory)
    submaps = config.mapping.submaps not in ("auto", "off")
    if len(config.source.camera_towards) > 1 and (config.mapping.loops or submaps):
        raise ValueError(
            "views of a panorama do not follow one another, as submaps and loops need: give one --camera-towards"
        )
    if config.source.depth and (config.mapping.submaps == "off" or "depth" not in config.heads):
        raise ValueError(
            "--depth makes the map of predicted depth metric: it needs --heads depth, and no --submaps off"
        )
    if config.moving != "keep" and ("depth" not in config.heads or len(config.source.camera_towards) > 1):
        raise ValueError(
            f"--moving {config.moving} compares depth of frames that follow one another: it needs --heads depth, and no "
            "several --camera-towards"
        )
    if config.moving == "keep" and "moving" in config.outputs:
        raise ValueError("--export moving writes what moves: it needs --moving separate")
    for option, given in (
        ("--loops", config.mapping.loops),
        (f"--submaps {config.mapping.submaps}", submaps),
        (f"--split {config.split}", config.split),
    ):
        if given and "depth" not in config.heads:
            raise ValueError(f"{option} needs depth, which --heads leaves out: add it")
    if config.track_grid < 1:
        raise ValueError(f"--track-grid must be at least 1 point, not {config.track_grid}")
    for output in config.outputs:
        if output in ("rrd", "mcap"):  # their packages are optional
            import_module(f"ivggt_jax.writers.{output}").packages()
    if config.view:
        check_port(config.port)
    computed = {*config.predicted, *(("points",) if "depth" in config.heads else ())}
    for output in config.outputs:
        if (needed := FORMATS[output].needs) and needed not in computed:
            raise ValueError(
                f"--export {output} needs {needed}, which --heads leaves out: add {'tracks' if needed == 'tracks' else 'depth'} to "
                "--heads, or name what needs none, as in --export tum intrinsics"
            )
