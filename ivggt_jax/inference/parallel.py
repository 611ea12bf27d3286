"""One source on several processes: checks of the options, and the order that the processes get."""

import jax

from ivggt_jax.config import CacheConfig
from ivggt_jax.inference.options import InferConfig
from ivggt_jax.model.parameters import Model
from ivggt_jax.runs.fitting import PROCESS, room_beside, step_bytes, stream_bytes, weights_bytes
from ivggt_jax.runs.memory import gigabytes, mapped_bytes
from ivggt_jax.sources import Frame, Source
from ivggt_jax.split.chain import Split
from ivggt_jax.split.messages import Order
from ivggt_jax.streaming.state import StreamState


def check_split(config: InferConfig, source: Source) -> None:
    """Raises ValueError when `--split` is combined with something it does not support."""
    if config.split is None:
        return
    cache = CacheConfig.preset(config.memory.preset)
    together = config.memory.frames_per_step or cache.frames_per_step
    faults = (
        (config.split < 1, f"needs at least one process, not {config.split}"),
        (
            not source.seekable,
            f"enters a source in many places: a video file, a folder or a list, not {config.source.frames}",
        ),
        (len(config.source.camera_towards) > 1, "needs submaps, which several views of a panorama have not"),
        (config.mapping.submaps == "off", "shares out submaps: leave --submaps off out"),
        ("tracks" in config.heads, "follows no tracks, which go on from submap to submap: leave them out of --heads"),
        (together > 1, f"takes frames one by one, not {together} together: give --frames-per-step 1"),
        (config.moving != "keep", "sees submaps apart, and what moves is told frame by frame: leave --moving out"),
        (config.source.on_error == "skip", "stops at a frame that cannot be read: leave --on-error skip out"),
        (config.memory.max_memory is not None, "plans no memory, of which each process takes its own: give --budget"),
    )
    for found, words in faults:
        if found:
            raise ValueError(f"--split {words}")


def split(config: InferConfig, source: Source, model: Model, state: StreamState, first: Frame) -> Split:
    """The processes of a run that begins with `first`, not started yet. Raises ValueError when they do not fit in memory."""
    settings = state.settings
    if settings.submaps is None:
        raise ValueError(
            "--split shares out submaps, and this source is short for one: give --submaps and their frames"
        )
    processes = config.split or 1
    mapped = mapped_bytes(jax.tree.leaves(model.params))  # shared by all processes
    each = weights_bytes(model) - mapped + PROCESS
    each += stream_bytes(model, settings.cache, settings.height, settings.width)
    each += step_bytes(settings.cache, settings.height, settings.width)
    room = room_beside(model, config.memory.share)
    if processes * each > room.free:
        raise ValueError(
            f"--split {processes}: each process takes about {gigabytes(each)}, and {room.bound} leaves {gigabytes(room.free)}"
        )
    order = Order(
        source=source.config,
        checkpoint=config.checkpoint,
        precision=str(model.params["aggregator"]["camera_token"].dtype),
        heads=config.predicted,
        cache=settings.cache,
        submaps=settings.submaps,
        height=settings.height,
        width=settings.width,
    )
    return Split(order, processes, first, lambda: source.while_waiting())
