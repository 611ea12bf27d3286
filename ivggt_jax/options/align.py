"""Options of the commands that align results with a known trajectory."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class AlignOptions:
    """A known trajectory to align the results with. Raises ValueError when both are given."""

    align_to: Path | None = None
    """A known trajectory (TUM file): results are also written to aligned/, moved, rotated and scaled to fit it (Sim3)."""
    scale_from: Path | None = None
    """The same, but only scaled: the first camera stays the origin. With neither option, results are up to scale."""

    def __post_init__(self) -> None:
        if self.align_to and self.scale_from:
            raise ValueError("--align-to includes the scale: give it or --scale-from, not both")

    @property
    def trajectory(self) -> Path | None:
        """The trajectory file, whichever option named it."""
        return self.align_to or self.scale_from
