"""Available memory, as a number of bytes and in words."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Room:
    """Memory that may still be allocated."""

    free: int
    """In bytes."""
    bound: str
    """What limits it, for people: "this machine's memory", "a control group's limit of 1.5 GB"."""
    counts_mapped: bool = True
    """Whether mapped files count when they are read (an address space holds them from the beginning)."""

    def less(self, mapped: int) -> "Room":
        """What is left after reading `mapped` bytes of mapped files."""
        return Room(max(0, self.free - mapped * self.counts_mapped), self.bound, self.counts_mapped)


@dataclass(frozen=True)
class Share:
    """Memory shared by processes of one kind, each with a model of its own."""

    room: Room
    """Free memory before this process loaded anything."""
    processes: int

    def beside(self, weights: int, mapped: int) -> Room:
        """One process's part beside its weights, of which `mapped` bytes are in files shared by all processes."""
        free = self.room.less(mapped).free // self.processes - (weights - mapped)
        return Room(max(0, free), f"{self.room.bound}, shared by {self.processes} processes,")
