"""Initial weights, for a network or for the parts of it that were not trained before."""

import re
from collections.abc import Iterable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from ivggt_jax.config import ModelConfig
from ivggt_jax.model.heads import HEADS
from ivggt_jax.model.parameters import Model, flatten, unflatten

LAYER_SCALE = 0.5
"""LayerScale of every block; `Model.initialise` uses 0.1."""
SHARPNESS = 2.5
"""Scale of the global blocks' normalised queries, which lets attention single out one patch of a clip."""


def fresh_model(config: ModelConfig, key: jax.Array) -> Model:
    """A network with random weights that quickly learns to search for correspondences.

    Unlike in `Model.initialise`, the global blocks' keys have the same projection as their queries, so that tokens attend to
    similar ones; their attention is sharper; position embeddings are about as large as a patch's content, not a fiftieth of it;
    and every block adds half of its output.
    """
    params = flatten(Model.initialise(config, key).params)
    for path, value in params.items():
        if re.search("(frame|global)_blocks/scale[12]$|encoder/blocks/scale[12]$", path):
            params[path] = jnp.full_like(value, LAYER_SCALE)
        elif path.endswith("global_blocks/qkv/kernel"):
            query, _, values = jnp.split(value, 3, axis=-1)
            params[path] = jnp.concatenate([query, query, values], axis=-1)
        elif path.endswith("global_blocks/query_norm/scale"):
            params[path] = SHARPNESS * value
        elif path.endswith("encoder/position_table"):
            side = config.image_size // config.patch_size
            params[path] = value.at[1:].set(_positions(side, config.width, jax.random.fold_in(key, 1)))
    return Model(config, unflatten(params))


def extended(model: Model, heads: Iterable[str], depth_input: bool, key: jax.Array) -> Model:
    """The model with these heads and, if `depth_input`, a depth input added; new parts get random weights."""
    asked = {*model.config.predicts, *heads}
    predicts = tuple(head for head in HEADS if head in asked)
    config = replace(model.config, predicts=predicts, depth_input=model.config.depth_input or depth_input)
    if config == model.config:
        return model
    return Model(config, unflatten(flatten(Model.initialise(config, key).params) | flatten(model.params)))


def _positions(side: int, width: int, key: jax.Array) -> jax.Array:
    """Sines and cosines of row and column [side², width], multiplied by a random rotation."""
    waves = width // 8
    angle = (np.arange(side)[:, None] + 0.5) * np.pi * np.arange(1, waves + 1) / (2 * side)
    axis = np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)
    row, column = (np.broadcast_to(x, (side, side, 2 * waves)) for x in (axis[:, None], axis[None]))
    table = np.concatenate([row, column, np.zeros((side, side, width - 4 * waves))], axis=-1)
    return jnp.asarray(table.reshape(side * side, width), jnp.float32) @ jax.random.orthogonal(key, width)
