"""Memory that may be planned with, as a number of bytes and in words."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Room:
    """Memory that may still be allocated."""

    free: int
    """Bytes."""
    bound: str
    """What ends it, for people: "this machine's memory", "a control group's limit of 1.5 GB"."""
    counts_mapped: bool = True
    """Whether files that are mapped take of it when they are read (an address space holds them from the beginning)."""

    def less(self, mapped: int) -> "Room":
        """What is left when so many bytes of mapped files are read."""
        return Room(max(0, self.free - mapped * self.counts_mapped), self.bound, self.counts_mapped)


@dataclass(frozen=True)
class Share:
    """Memory that processes of one kind have together, each with a model of its own."""

    room: Room
    """What was free before this one loaded anything."""
    processes: int

    def beside(self, weights: int, mapped: int) -> Room:
        """What is one process's beside its weights, of whose bytes those of `mapped` files lie in memory once for all."""
        free = self.room.less(mapped).free // self.processes - (weights - mapped)
        return Room(max(0, free), f"{self.room.bound}, shared by {self.processes} processes,")
