"""`python -m train distill|supervised PRESET …`: train a causal student, or a model from ground truth."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import tyro

from ivggt_jax.command import run_command
from train.data.batches import Batch, BatchSource, ClipBatches, ClipConfig
from train.data.clips import clips
from train.data.datasets import DATASETS
from train.data.scene import Dataset
from train.data.synthetic import SyntheticBatches, SyntheticConfig
from train.distill import StepConfig
from train.losses import LossConfig
from train.optimizer import OptimizerConfig
from train.run import RunConfig, run

HELD_OUT_SEED = 1 << 20
"""Of the clips that evaluation draws; training seeds stay below."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """A run and its data."""

    data: tuple[str, ...] = ()
    """Folders of images or videos, or dataset=folder[:weight] with scannet, arkitscenes, co3d, 7scenes, tum; none:
    synthetic scenes."""
    evaluation_clips: int = 16
    """Held-out clips, from the datasets' test split or synthetic; unlabelled footage is evaluated on synthetic ones."""
    recorded: ClipConfig = field(default_factory=ClipConfig)
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)


SUPERVISED = LossConfig(task_weight=1.0, distillation_weight=0.0)
LONG = {
    "steps": 3_900_000,
    "step": StepConfig(rematerialise="block", optimizer=OptimizerConfig(learning_rate=1e-4, accumulation=4)),
    "recorded": ClipConfig(batch_size=4, frames=(4, 24), query_points=64),
}
PRESETS: dict[str, dict[str, tuple[str, TrainConfig]]] = {
    "distill": {
        "published": (
            "StreamVGGT's recipe: 10 frames, 10 epochs of 39,000 clips.",
            TrainConfig(out=Path("runs/published"), recorded=ClipConfig(query_points=64)),
        ),
        "long": (
            "Longer clips and runs: batch 4 × accumulation 4, 100 epochs, blocks rematerialised.",
            TrainConfig(out=Path("runs/long"), **LONG),
        ),
        "demo": (
            "The student of the package's demo model, on synthetic scenes.",
            TrainConfig(
                out=Path("runs/demo_student"),
                student="runs/demo_teacher/best",
                teacher="runs/demo_teacher/best",
                steps=6_000,
                save_every=500,
                evaluate_every=500,
                log_every=50,
                step=StepConfig(
                    precision="float32",
                    loss=LossConfig(task_weight=1.0, distillation_weight=0.5),
                    optimizer=OptimizerConfig(learning_rate=2e-4, frozen=(), weight_decay=0.01),
                ),
            ),
        ),
    },
    "supervised": {
        "published": (
            "From ground truth, on labelled recordings.",
            TrainConfig(out=Path("runs/supervised"), teacher=None, step=StepConfig(loss=SUPERVISED)),
        ),
        "long": (
            "The same with longer clips and runs.",
            TrainConfig(
                out=Path("runs/supervised_long"),
                teacher=None,
                **(LONG | {"step": replace(LONG["step"], loss=SUPERVISED)}),  # type: ignore[type-var]
            ),
        ),
        "demo": (
            "The teacher of the package's demo model, from nothing, on synthetic scenes.",
            TrainConfig(
                out=Path("runs/demo_teacher"),
                student="random:demo",
                teacher=None,
                steps=12_000,
                save_every=500,
                evaluate_every=500,
                log_every=50,
                step=StepConfig(
                    mode="offline",
                    heads=("camera", "depth"),
                    precision="float32",
                    loss=SUPERVISED,
                    optimizer=OptimizerConfig(
                        learning_rate=5e-4, final_learning_rate=1e-5, frozen=(), weight_decay=0.01, average_decay=0.998
                    ),
                ),
                synthetic=SyntheticConfig(batch_size=6, frames=(4, 4), kinds=("room",)),
            ),
        ),
    },
}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    kinds = ", ".join(PRESETS)
    if not arguments or arguments[0] not in PRESETS:
        print(f"usage: python -m train {{{kinds}}} {{published,long,demo}} [options]; --help after them lists all")
        sys.exit(0 if arguments[:1] in ([], ["--help"], ["-h"]) else 2)
    presets = tyro.extras.subcommand_type_from_defaults(
        {name: config for name, (_, config) in PRESETS[arguments[0]].items()},
        {name: description for name, (description, _) in PRESETS[arguments[0]].items()},
        prefix_names=False,
    )
    run_command(presets, train, arguments[1:], f"python -m train {arguments[0]}")


def train(config: TrainConfig) -> int:
    """Train; a run that was stopped goes on from its newest checkpoint when it is started again."""
    best = run(config, _batches(config), _held_out(config))
    print(f"best student → {best}", file=sys.stderr)
    return 0


def _batches(config: TrainConfig) -> BatchSource:
    if not config.data:
        return SyntheticBatches(config.synthetic, config.steps, config.seed)
    labelled = config.step.loss.task_weight > 0
    return ClipBatches(
        replace(config.recorded, labelled=labelled), _datasets(config, "train"), config.steps, config.seed
    )


def _held_out(config: TrainConfig) -> list[Batch]:
    """Batches to evaluate on, the same at every evaluation."""
    source: BatchSource
    if config.data and all("=" in name for name in config.data):
        labelled = replace(config.recorded, labelled=True, color_jitter=False, crop_augmentation=0)
        source = ClipBatches(labelled, _datasets(config, "test"), config.evaluation_clips, HELD_OUT_SEED)
    else:
        most = config.synthetic.frames[1]
        source = SyntheticBatches(
            replace(config.synthetic, frames=(most, most)), config.evaluation_clips, HELD_OUT_SEED
        )
    return [source[i] for i in range(max(1, config.evaluation_clips // len(source[0].names)))]


def _datasets(config: TrainConfig, split: str) -> list[tuple[Dataset, float]]:
    """Datasets and weights as `--data` names them; all unlabelled places make one dataset. ValueError for unknown names."""
    found: list[tuple[Dataset, float]] = []
    for name in config.data:
        kind, equals, place = name.partition("=")
        if not equals:
            continue
        if kind not in DATASETS:
            raise ValueError(f"--data {name}: no dataset is called {kind}; there are {', '.join(DATASETS)}")
        place, _, weight = place.partition(":")
        found.append((DATASETS[kind](Path(place), split), float(weight or 1)))
    footage = [Path(name) for name in config.data if "=" not in name]
    return found + ([(clips(footage), 1.0)] if footage else [])


if __name__ == "__main__":
    main()
