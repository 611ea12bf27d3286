"""The model's configuration in JSON: known fields, within bounds."""

import dataclasses
from pathlib import Path
from typing import Any

from ivggt_jax.config import ModelConfig
from ivggt_jax.weights.tensor_file import CheckpointError, read_json

_MOST = {
    "image_size": 16_384,
    "patch_size": 256,
    "width": 65_536,
    "register_tokens": 1_024,
    "mlp_ratio": 64,
    "rope_base": 1e9,
    "dpt_layers": 1_023,
    "dpt_features": 65_536,
    "dpt_channels": 65_536,
    "track_features": 65_536,
    "track_hidden": 65_536,
    "track_levels": 16,
    "track_radius": 64,
    "track_virtual": 65_536,
}
"""The largest allowed value of a field: many times that of any known model, and still safe for a machine."""
_MOST_OF_OTHERS = 1_024
"""For the other fields: layers, heads and iterations."""


def read_config(path: Path) -> ModelConfig:
    """The configuration in a JSON file: a checkpoint's config.json, a training run's, or just the fields.

    Raises CheckpointError.
    """
    content = read_json(path)
    return parse_config(content.get("model", content), f"{path}")


def parse_config(fields: object, what: str) -> ModelConfig:
    """A ModelConfig from the fields of a JSON object; missing ones get their full-size value.

    Raises CheckpointError naming the unknown or invalid field of `what`.
    """
    if not isinstance(fields, dict):
        raise CheckpointError(f"{what} has no object with the model's fields")
    known = {field.name: field for field in dataclasses.fields(ModelConfig)}
    values: dict[str, Any] = {}
    for name, value in fields.items():
        if name not in known:
            raise CheckpointError(f"{what}: unknown field {name!r}; known are {', '.join(known)}")
        _check(known[name], value, what)
        values[name] = tuple(value) if isinstance(value, list) else value
    try:
        return ModelConfig(**values)
    except ValueError as error:
        raise CheckpointError(f"{what}: {error}") from None


def _check(field: "dataclasses.Field[Any]", value: object, what: str) -> None:
    """Raises CheckpointError for a value of the wrong type or out of bounds."""
    if field.name == "predicts":
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise CheckpointError(f"{what}: predicts is {repr(value)[:80]}, expected something like {field.default!r}")
        return
    if isinstance(field.default, bool):
        if not isinstance(value, bool):
            raise CheckpointError(f"{what}: {field.name} is {repr(value)[:80]}, expected true or false")
        return
    items: list[Any] = value if isinstance(value, list) else [value]
    sound = isinstance(value, list) == isinstance(field.default, tuple) and len(items) < 100
    for item in items:
        whole = isinstance(item, int) or (field.type is float and isinstance(item, float))
        sound = sound and whole and not isinstance(item, bool) and item >= 0
    if not sound:
        shown = repr(value)[:80]
        raise CheckpointError(f"{what}: {field.name} is {shown}, expected something like {field.default!r}")
    most = _MOST.get(field.name, _MOST_OF_OTHERS)
    if max(items, default=0) > most:
        raise CheckpointError(f"{what}: {field.name} is {value}, which no model has; at most {most:,} is read")
