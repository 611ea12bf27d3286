"""The configuration of the command, and its presets."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from ivggt_jax.config import PUBLISHED_HEADS
from ivggt_jax.sources.fit import PATCH
from ivggt_jax.train.data.batches import ClipConfig
from ivggt_jax.train.data.synthetic import SyntheticConfig
from ivggt_jax.train.distill import StepConfig
from ivggt_jax.train.evaluate import FEWEST_FRAMES
from ivggt_jax.train.losses import LossConfig
from ivggt_jax.train.optimizer import OptimizerConfig
from ivggt_jax.train.training import RunConfig

HELD_OUT_SEED = 1 << 20
"""First seed of evaluation clips; training seeds are smaller."""


def is_labelled(data: str) -> bool:
    """Whether an entry of `--data` names a dataset, dataset=folder, not a folder of footage, in whose path there may be a `=`."""
    kind, equals, _ = data.partition("=")
    return bool(equals) and "/" not in kind


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """A run and its data. Raises ValueError for contradictory fields."""

    data: tuple[str, ...] = ()
    """Folders of images or videos, or dataset=folder[:weight] with scannet, arkitscenes, co3d, 7scenes, tum; none: synthetic."""
    evaluation_clips: int = 16
    """Number of held-out clips, in whole batches: from the datasets' test split or synthetic; always so for unlabelled footage."""
    recorded: ClipConfig = field(default_factory=ClipConfig)
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.seed < HELD_OUT_SEED:
            raise ValueError(f"seed must lie in [0, {HELD_OUT_SEED}), not {self.seed}: others are for held-out clips")
        if self.evaluation_clips < 1:
            raise ValueError(f"evaluation_clips must be at least 1, not {self.evaluation_clips}")
        if self.clips.frames[1] < FEWEST_FRAMES:
            raise ValueError(f"frames must reach {FEWEST_FRAMES} for camera paths, not {self.clips.frames}")
        for size in (*self.recorded.resolutions, *self.synthetic.sizes):
            if min(size) < PATCH or any(side % PATCH for side in size):
                raise ValueError(f"frames of {size[0]}×{size[1]}: both sides must be multiples of {PATCH}")
        if "tracks" in self.step.heads and not self.clips.query_points:
            raise ValueError("step.heads include tracks: query_points of the data must be at least 1")
        if "tracks" in self.step.heads and self.data and self.step.loss.distillation_weight <= 0:
            raise ValueError("step.heads include tracks, which recorded data do not have: only a teacher tells them")
        if self.workers and not self.data:
            raise ValueError(
                "workers load recorded data; synthetic scenes are rendered by the training process: leave workers out"
            )
        tells = self.synthetic.bodies and not self.data
        if "motion" in self.step.heads and not tells and self.step.loss.task_weight > 0:
            raise ValueError(
                "step.heads include motion: of ground truth only synthetic.bodies, at least 1 and without data, tell what moves"
            )
        if self.depth_input and "depth" not in self.step.heads:
            raise ValueError("depth_input needs depth among step.heads: its ratio to measured depth is the clip's unit")
        if self.depth_input and self.data:
            raise ValueError(
                "depth_input trains on simulated sensors, and data are recorded: leave out the one or the other"
            )

    @property
    def has_labels(self) -> bool:
        """Whether all recorded data have depth and cameras."""
        return bool(self.data) and all(map(is_labelled, self.data))

    @property
    def clips(self) -> ClipConfig | SyntheticConfig:
        """Size and composition of the training batches."""
        return self.recorded if self.data else self.synthetic


SUPERVISED = LossConfig(task_weight=1.0, distillation_weight=0.0)
LEARNED_LAST = ("points/.*", "track_features/.*", "tracker/.*")
"""Parameters that the demo model learns last, starting from a finished student."""
DEMO_DISTILLED = StepConfig(
    heads=("camera", "depth"),
    precision="float32",
    loss=LossConfig(task_weight=1.0, distillation_weight=0.1, matching=1.0, readout=2.0),
    optimizer=OptimizerConfig(
        learning_rate=1e-3,
        final_learning_rate=1e-5,
        frozen=LEARNED_LAST,
        weight_decay=0.01,
        average_decay=0.998,
    ),
)
DEMO_SUPERVISED = StepConfig(
    mode="offline",
    heads=("camera", "depth"),
    precision="float32",
    loss=replace(SUPERVISED, matching=3.0, readout=2.0),
    optimizer=OptimizerConfig(
        learning_rate=1.5e-3,
        final_learning_rate=1e-5,
        frozen=LEARNED_LAST,
        slower=(("depth/.*", 0.5),),
        weight_decay=0.01,
        average_decay=0.998,
    ),
)
DEMO_WIDE = replace(
    DEMO_DISTILLED,
    loss=replace(DEMO_DISTILLED.loss, distillation_weight=0.0, camera=40.0),
    optimizer=replace(DEMO_DISTILLED.optimizer, learning_rate=7e-4),
)
DEMO_WORLDS = replace(
    DEMO_WIDE,
    loss=replace(DEMO_WIDE.loss, relative=30.0, log_depth=20.0),
    optimizer=replace(DEMO_WIDE.optimizer, learning_rate=4e-4),
)
DEMO_SHARP = replace(
    DEMO_WORLDS,
    # With 20, both losses of depth have a fifth of the gradient; and confidence takes the weight of the other from hard clips.
    loss=replace(DEMO_WORLDS.loss, log_depth=60.0),
    optimizer=replace(DEMO_WORLDS.optimizer, method="muon", learning_rate=6e-4),
)
DEMO_STEPS = replace(
    DEMO_WIDE,
    loss=replace(DEMO_WIDE.loss, relative=30.0),
    # With this decay the average forgets its start within the few hundred steps of a stage.
    optimizer=replace(DEMO_WIDE.optimizer, learning_rate=5e-4, average_decay=0.99),
)
DEMO_EXTRA = StepConfig(
    heads=("points", "tracks"),
    precision="float32",
    loss=SUPERVISED,
    optimizer=OptimizerConfig(
        learning_rate=5e-4,
        final_learning_rate=1e-5,
        frozen=("aggregator/.*", "camera/.*", "depth/.*"),
        weight_decay=0.01,
    ),
)
DEMO_RGBD = StepConfig(
    heads=("camera", "depth"),
    precision="float32",
    loss=SUPERVISED,
    optimizer=OptimizerConfig(
        learning_rate=5e-4,
        final_learning_rate=1e-5,
        frozen=("aggregator/(?!depth_patches/).*", "camera/.*", "depth/.*"),
        weight_decay=0.01,
        average_decay=0.99,
    ),
)
DEMO_MOTION = replace(
    DEMO_RGBD,
    heads=("motion",),
    optimizer=replace(DEMO_RGBD.optimizer, learning_rate=1e-3, frozen=("aggregator/.*",)),
)
FULL_SIZE = SyntheticConfig(batch_size=1, frames=(10, 10), width=518, height=392, query_points=64)
PUBLISHED = TrainConfig(
    out=Path("runs/published"),
    step=StepConfig(heads=PUBLISHED_HEADS, rematerialise="block"),
    recorded=ClipConfig(query_points=64),
    synthetic=FULL_SIZE,
)
LONG = replace(
    PUBLISHED,
    out=Path("runs/long"),
    steps=975_000,
    step=StepConfig(
        heads=PUBLISHED_HEADS, rematerialise="full", optimizer=OptimizerConfig(learning_rate=1e-4, accumulation=4)
    ),
    recorded=ClipConfig(batch_size=4, frames=(4, 24), query_points=64),
    synthetic=replace(FULL_SIZE, batch_size=4, frames=(4, 24)),
)
WORLDS = SyntheticConfig(
    batch_size=2,
    frames=(12, 12),
    speed=(1.5, 16.0),
    kinds=("room", "room", "room", "room", "room", "room", "street", "corridor"),
    defects=0.5,
    scales=(1.5, 1.5, 1.0),
)
"""Rooms, streets and corridors, half of the clips spoilt, in two sizes."""
DEMO = TrainConfig(
    out=Path("runs/demo_student"),
    student="runs/demo_teacher/best",
    teacher="runs/demo_teacher/best",
    steps=1_000,
    save_every=500,
    evaluate_every=500,
    log_every=50,
    step=DEMO_DISTILLED,
    recorded=ClipConfig(resolutions=((112, 84),), weights=(1,), crop_augmentation=4),
    synthetic=SyntheticConfig(batch_size=16, frames=(24, 24), speed=(1.0, 8.0), kinds=("room",)),
)


def _from_ground_truth(config: TrainConfig, out: str) -> TrainConfig:
    """The same configuration without a teacher and, because recordings have none, without tracks."""
    step = replace(config.step, heads=("camera", "depth", "points"), loss=SUPERVISED)
    return replace(
        config,
        out=Path(out),
        teacher=None,
        step=step,
        recorded=replace(config.recorded, query_points=0),
        synthetic=replace(config.synthetic, query_points=0),
    )


def _demo_steps(student: str, frames: int, clips: int, steps: int) -> TrainConfig:
    """A stage of `DEMO_STEPS`. Longer clips follow the same paths in smaller steps."""
    return replace(
        DEMO,
        out=Path(f"runs/demo_steps_{frames}"),
        student=student,
        teacher=None,
        steps=steps,
        step=DEMO_STEPS,
        synthetic=SyntheticConfig(
            batch_size=clips, frames=(frames, frames), speed=(24 / frames, 192 / frames), kinds=("room",)
        ),
    )


PRESETS: dict[str, dict[str, tuple[str, TrainConfig]]] = {
    "distill": {
        "published": ("StreamVGGT's recipe: 10 frames, 10 epochs of 39,000 clips.", PUBLISHED),
        "long": ("Longer clips and runs: up to 24 frames, batch 4 × accumulation 4, 100 epochs, rematerialised.", LONG),
        "demo": ("The demo model's student, on synthetic scenes.", DEMO),
    },
    "supervised": {
        "published": (
            "The same clips, with ground truth instead of a teacher.",
            _from_ground_truth(PUBLISHED, "runs/supervised"),
        ),
        "long": (
            "The same longer clips, with ground truth instead of a teacher.",
            _from_ground_truth(LONG, "runs/supervised_long"),
        ),
        "demo": (
            "The demo model's teacher, trained from scratch on synthetic scenes.",
            replace(
                DEMO,
                out=Path("runs/demo_teacher"),
                student="random:demo",
                teacher=None,
                steps=4_000,
                step=DEMO_SUPERVISED,
                synthetic=SyntheticConfig(batch_size=8, frames=(3, 3), speed=(1.0, 12.0), kinds=("room",)),
            ),
        ),
        "demo_wide": (
            "The demo model's student, trained further on walks whose ends do not see each other.",
            replace(
                DEMO,
                out=Path("runs/demo_wide"),
                student="runs/demo_student/best",
                teacher=None,
                steps=3_000,
                step=DEMO_WIDE,
                synthetic=SyntheticConfig(batch_size=2, frames=(12, 12), speed=(2.0, 16.0), kinds=("room",)),
            ),
        ),
        "demo_worlds": (
            "The demo model's student, trained further in more kinds of scenes and two sizes, by cameras good and poor.",
            replace(
                DEMO,
                out=Path("runs/demo_worlds"),
                student="runs/demo_wide/best",
                teacher=None,
                steps=4_000,
                step=DEMO_WORLDS,
                synthetic=WORLDS,
            ),
        ),
        "demo_sharp": (
            "The demo model's student, trained further with Muon, on frames of up to 224×168.",
            replace(
                DEMO,
                out=Path("runs/demo_sharp"),
                student="runs/demo_worlds/best",
                teacher=None,
                steps=2_600,
                step=DEMO_SHARP,
                synthetic=replace(WORLDS, scales=(1.0, 1.5, 2.0, 2.0)),
            ),
        ),
        "demo_steps_12": (
            "The shipped demo model, trained further on the motion between its cameras, in clips of 12 frames.",
            _demo_steps("demo", frames=12, clips=2, steps=1_200),
        ),
        "demo_steps_24": (
            "The same, in clips of 24 frames.",
            _demo_steps("runs/demo_steps_12/best", frames=24, clips=1, steps=1_200),
        ),
        "demo_steps_48": (
            "The same, in clips of 48 frames.",
            _demo_steps("runs/demo_steps_24/best", frames=48, clips=1, steps=600),
        ),
        "demo_rgbd": (
            "A branch of the shipped demo model that takes a sensor's depth as input; nothing else changes.",
            replace(
                DEMO,
                out=Path("runs/demo_rgbd"),
                student="demo",
                teacher=None,
                depth_input=True,
                steps=1_500,
                step=DEMO_RGBD,
                synthetic=SyntheticConfig(batch_size=2, frames=(8, 8), speed=(1.0, 16.0), kinds=("room",)),
            ),
        ),
        "demo_motion": (
            "A head of the shipped demo model that predicts what moves; nothing else changes.",
            replace(
                DEMO,
                out=Path("runs/demo_motion"),
                student="demo",
                teacher=None,
                steps=3_000,
                step=DEMO_MOTION,
                synthetic=SyntheticConfig(batch_size=2, frames=(12, 12), speed=(0.5, 8.0), kinds=("room",), bodies=3),
            ),
        ),
        "demo_heads": (
            "The demo model's tracker, and its point head again, on top of the finished student.",
            replace(
                DEMO,
                out=Path("runs/demo"),
                student="runs/demo_sharp/best",
                teacher=None,
                steps=1_000,
                step=DEMO_EXTRA,
                synthetic=replace(DEMO.synthetic, batch_size=1, query_points=32),
            ),
        ),
    },
}
"""Presets by objective and name: a description and the configuration."""
