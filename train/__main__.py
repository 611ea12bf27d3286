"""`python -m train distill|supervised PRESET …`: train a causal student, or a model from ground truth."""

import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
import tyro

from ivggt_jax.runs.command import run_command
from ivggt_jax.train.data.batches import Batch, BatchSource, ClipBatches
from ivggt_jax.train.data.clips import clips
from ivggt_jax.train.data.datasets import DATASETS
from ivggt_jax.train.data.scene import Dataset
from ivggt_jax.train.data.synthetic import SyntheticBatches
from ivggt_jax.train.mesh import make_mesh, process_rows, start_processes
from ivggt_jax.train.presets import HELD_OUT_SEED, PRESETS, TrainConfig, is_labelled
from ivggt_jax.train.training import run

logger = logging.getLogger(__name__)

HELP = """usage: {program} OBJECTIVE PRESET [options]

objectives:
  distill     a causal student follows an offline teacher
  supervised  a model learns from ground truth alone
presets:
{presets}

{program} OBJECTIVE PRESET --help lists the options with the preset's values.
"""


def main(arguments: Sequence[str] | None = None, program: str = "python -m train") -> None:
    """The command line program."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    objective = arguments[0] if arguments else "--help"
    if objective not in PRESETS:
        asked = objective in ("--help", "-h")
        texts = {f"{kind} {name}": text for kind, presets in PRESETS.items() for name, (text, _) in presets.items()}
        width = max(map(len, texts))
        lines = [f"  {name:<{width}} {text}" for name, text in texts.items()]
        print(HELP.format(program=program, presets="\n".join(lines)), file=sys.stdout if asked else sys.stderr)
        sys.exit(0 if asked else 2)
    presets = tyro.extras.subcommand_type_from_defaults(
        {name: config for name, (_, config) in PRESETS[objective].items()},
        {name: text for name, (text, _) in PRESETS[objective].items()},
        prefix_names=False,
    )
    run_command(presets, train, arguments[1:], f"{program} {objective}")


def train(config: TrainConfig) -> int:
    """Train. A stopped run continues from its newest checkpoint when started again."""
    start_processes(config.distributed)
    mesh = make_mesh(config.fsdp)
    rows = process_rows(mesh, config.clips.batch_size)
    try:
        best = run(config, mesh, training_batches(config, rows), held_out_batches(config, rows))
    except FloatingPointError as error:
        print(f"error: {error}; the newest checkpoint in {config.out} is from before", file=sys.stderr)
        return 1
    print(f"best student: {best}", file=sys.stderr)
    return 0


def training_batches(config: TrainConfig, rows: slice) -> BatchSource:
    """This process's rows of a run's batches. Raises ValueError for data that cannot be used."""
    tracked = config.clips.query_points if "tracks" in config.step.heads else 0
    if not config.data:
        synthetic = replace(config.synthetic, query_points=tracked, sensor=config.depth_input)
        return SyntheticBatches(synthetic, config.steps, config.seed, rows)
    # The published recipe also masks pixels without ground truth in the teacher's maps.
    labelled = config.step.loss.task_weight > 0 or config.has_labels
    recorded = replace(config.recorded, labelled=labelled, query_points=tracked)
    return ClipBatches(recorded, _datasets(config, "train"), config.steps, config.seed, rows)


def held_out_batches(config: TrainConfig, rows: slice) -> list[Batch]:
    """Labelled batches of one size for evaluation: from the test split of labelled datasets, else synthetic scenes.

    Frames are in order, because the camera's steps are judged.
    """
    source: BatchSource
    size, most = config.clips.batch_size, config.clips.frames[1]
    count = max(1, config.evaluation_clips // size)
    if config.has_labels:
        recorded = replace(
            config.recorded,
            frames=(most, most),
            resolutions=config.recorded.resolutions[:1],
            weights=(1.0,),
            crop_augmentation=0,
            color_jitter=False,
            query_points=0,
            labelled=True,
        )
        datasets = [
            (replace(dataset, sampling=replace(dataset.sampling, video=1.0)), weight)
            for dataset, weight in _datasets(config, "test")
        ]
        source = ClipBatches(recorded, datasets, count, HELD_OUT_SEED, rows)
    else:
        synthetic = replace(
            config.synthetic, batch_size=size, frames=(most, most), query_points=0, sensor=config.depth_input
        )
        source = SyntheticBatches(synthetic, count, HELD_OUT_SEED, rows)
    batches = []
    for step in range(count):
        batch = source[step]
        for name in batch.skipped:
            logger.warning("held-out clip skipped: %s", name)
        # On the host, because they stay for the whole run.
        batches.append(batch._replace(arrays=jax.device_get(batch.arrays)))
    return batches


def _datasets(config: TrainConfig, split: str) -> list[tuple[Dataset, float]]:
    """Datasets and weights as `--data` names them; all unlabelled paths form one dataset. Raises ValueError for unknown names."""
    found: list[tuple[Dataset, float]] = []
    for name in filter(is_labelled, config.data):
        kind, _, place = name.partition("=")
        if kind not in DATASETS:
            raise ValueError(f"--data {name}: no dataset is called {kind}; there are {', '.join(DATASETS)}")
        weighed = re.fullmatch(r"(.*):([0-9.]+)", place)
        place, weight = weighed.groups() if weighed else (place, "1")
        found.append((DATASETS[kind](Path(place), split), float(weight)))
    footage = [Path(name) for name in config.data if not is_labelled(name)]
    return found + ([(clips(footage), 1.0)] if footage else [])


if __name__ == "__main__":
    main()
