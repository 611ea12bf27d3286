"""How much memory there is to plan with, from made-up machines: files as Linux has them, in a folder."""

import resource
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from resident import resident_bytes

from ivggt_jax import Model, ModelConfig, load, save
from ivggt_jax.runs import memory
from ivggt_jax.runs.memory import free_memory, gigabytes, mapped_bytes
from ivggt_jax.runs.resume import weights_fingerprint
from ivggt_jax.runs.room import Room, Share

MACHINE = 20 * 10**9 // 1024 * 1024
"""Bytes that are free on the made-up machine."""
NO_LIMIT = 9223372036854771712
"""As version 1 of control groups writes it."""


class Machine:
    """A /proc and control groups in a folder; this process reads them in place of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.proc, self.groups = folder / "proc", folder / "sys fs" / "cgroup"
        monkeypatch.setattr(memory, "PROC", self.proc)
        self.write(self.proc / "meminfo", f"MemTotal: 1 kB\nMemAvailable: {MACHINE // 1024} kB\n")

    def write(self, path: Path, text: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    def join(self, groups: str, *mounts: str) -> None:
        """Puts the process into control groups, `ID:CONTROLLERS:PATH` each; a mount is "ROOT PLACE KIND OPTIONS"."""
        self.write(self.proc / "self" / "cgroup", groups)
        lines = [f"22 1 0:21 / {self.proc} rw,nosuid - proc proc rw"]
        for number, mount in enumerate(mounts, 30):
            root, place, kind, options = mount.split()
            where = str(self.groups / place).replace(" ", "\\040")
            lines.append(f"{number} 22 0:{number} {root} {where} rw,relatime shared:9 - {kind} {kind} {options}")
        self.write(self.proc / "self" / "mountinfo", "\n".join(lines))

    def limit(self, path: str, limit: object, used: int = 0, given_up: int = 0) -> None:
        """Of a control group of version 2."""
        self.write(self.groups / path / "memory.max", limit)
        self.write(self.groups / path / "memory.current", used)
        self.write(self.groups / path / "memory.stat", f"anon 1\nfile {given_up + 9}\ninactive_file {given_up}")

    def limit_1(self, path: str, limit: int, used: int = 0, given_up: int = 0) -> None:
        """Of one of version 1."""
        self.write(self.groups / path / "memory.limit_in_bytes", limit)
        self.write(self.groups / path / "memory.usage_in_bytes", used)
        self.write(self.groups / path / "memory.stat", f"inactive_file 5\ntotal_inactive_file {given_up}")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_without_a_limit_it_is_the_machines(machine: Machine):
    assert free_memory().free == MACHINE and free_memory().bound == "this machine's memory"
    assert free_memory(mapped=5 * 10**9).free == MACHINE - 5 * 10**9
    assert free_memory(mapped=10**12).free == 0


@pytest.mark.parametrize("text", ["", "MemTotal: 5 kB\n", "MemAvailable: much\n"])
def test_a_machine_that_does_not_tell_has_half_of_what_it_has(machine: Machine, text: str):
    (machine.proc / "meminfo").write_text(text)
    assert 10**8 < free_memory().free < 10**13


@pytest.mark.parametrize(
    ("groups", "mount", "folder"),
    [
        ("0::/user.slice/job", "/ . cgroup2 rw", "user.slice/job"),
        ("0::/", "/ . cgroup2 rw", "."),  # a container with a name space of its own
        ("0::/docker/77", "/docker/77 . cgroup2 rw", "."),  # one without
        ("0::/../../job", "/ . cgroup2 rw", "."),  # moved out of its name space
        ("12:pids:/a\n4:memory:/a\n0::/job", "/ unified cgroup2 rw", "unified/job"),  # version 1 has no memory mounted
        ("0::/with:colon", "/ . cgroup2 rw,nsdelegate", "with:colon"),
    ],
)
def test_the_group_of_version_2_is_found(machine: Machine, groups: str, mount: str, folder: str):
    """Its limit less what is used, of which the pages of inactive files can be given up."""
    machine.join(groups, mount)
    machine.limit(folder, 3_000_000_000, used=2_000_000_000, given_up=500_000_000)
    assert free_memory().free == 1_500_000_000 and free_memory().bound == "a control group's limit of 3.0 GB"


@pytest.mark.parametrize(
    ("groups", "mount", "folder"),
    [
        ("9:name=systemd:/\n4:memory:/job/7\n0::/", "/ memory cgroup rw,memory", "memory/job/7"),
        ("3:cpu,cpuacct:/x\n2:hugetlb,memory:/job", "/ memory cgroup rw,hugetlb,memory", "memory/job"),
        ("4:memory:/docker/77", "/docker/77 memory cgroup rw,memory", "memory"),
        ("4:memory:/docker/77", "/docker/88 memory cgroup rw,memory", "memory"),
    ],
)
def test_the_group_of_version_1_is_found(machine: Machine, groups: str, mount: str, folder: str):
    machine.join(groups, "/ cpu cgroup rw,cpu", mount, "/ unified cgroup2 rw")
    machine.limit_1(folder, 1_500_000_000, used=900_000_000, given_up=300_000_000)
    assert free_memory().free == 900_000_000


def test_the_least_limit_up_the_tree_counts(machine: Machine):
    machine.join("0::/a/b/c", "/ . cgroup2 rw")
    machine.limit("a", 2_000_000_000, used=1_900_000_000)
    machine.limit("a/b", "max")
    machine.limit("a/b/c", 4_000_000_000, used=100)
    assert free_memory().free == 100_000_000
    machine.write(machine.groups / "a/b/c/memory.high", 50_000_100)
    assert free_memory().free == 50_000_000, "beyond it the process is slowed down until it stands"
    machine.join("4:memory:/a/b", "/ memory cgroup rw,memory")
    machine.limit_1("memory", NO_LIMIT)
    machine.limit_1("memory/a", 3_000_000_000)
    machine.limit_1("memory/a/b", NO_LIMIT)
    assert free_memory().free == 3_000_000_000


@pytest.mark.parametrize("damage", ["no usage", "words", "no groups", "no mounts", "short lines"])
def test_what_cannot_be_read_limits_nothing(machine: Machine, damage: str):
    machine.join("0::/job", "/ . cgroup2 rw")
    machine.limit("job", 10**9)
    job = machine.groups / "job"
    match damage:
        case "no usage":
            (job / "memory.current").write_text("")
        case "words":
            (job / "memory.max").write_text("plenty")
        case "no groups":
            (machine.proc / "self" / "cgroup").unlink()
        case "no mounts":
            (machine.proc / "self" / "mountinfo").unlink()
        case "short lines":
            (machine.proc / "self" / "cgroup").write_text("0\n\n")
    assert free_memory().free == MACHINE


def test_a_group_that_is_over_its_limit_has_nothing(machine: Machine):
    machine.join("0::/job", "/ . cgroup2 rw")
    machine.limit("job", 10**9, used=2 * 10**9)
    assert free_memory().free == 0


def test_limits_of_the_shell_count(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    """Mapped weights take addresses from the beginning: they are not counted again."""
    limits = {resource.RLIMIT_AS: 4_000_000_000, resource.RLIMIT_DATA: resource.RLIM_INFINITY}
    monkeypatch.setattr(resource, "getrlimit", lambda number: (limits[number], limits[number]))
    machine.write(machine.proc / "self" / "status", "VmSize:\t 1000000 kB\nVmData:\t 500000 kB")
    assert free_memory(mapped=10**9).free == 4_000_000_000 - 1_024_000_000
    assert "4.0 GB on this process (ulimit -v)" in free_memory().bound
    limits[resource.RLIMIT_DATA] = 1_000_000_000
    assert free_memory().free == 1_000_000_000 - 512_000_000 and "ulimit -d" in free_memory().bound


@pytest.mark.skipif(sys.platform != "linux", reason="limits of this kind are Linux's")
def test_a_limit_of_this_machine_is_seen():
    program = "from ivggt_jax.runs.memory import free_memory; print(free_memory().free)"
    line = ["bash", "-c", 'ulimit -v 4000000; exec "$@"', "bash", sys.executable, "-c", program]
    found = subprocess.run(line, capture_output=True, text=True, check=True, timeout=120)
    assert 0 < int(found.stdout) < 4_096_000_000


def test_weights_in_a_mapped_file_are_counted(tiny: Model, tmp_path: Path):
    """Beside them copies of three parameters, which take memory already."""
    save(tiny, tmp_path / "tiny")
    params = jax.tree.leaves(load(tmp_path / "tiny", np.float32).params)
    copies = [x + 1 for x in params[:3]]
    whole = sum(x.nbytes for x in params)
    assert 0.99 * whole < mapped_bytes([*params, *copies]) <= whole
    assert mapped_bytes(copies) == 0


def test_a_fingerprint_reads_little_of_the_weights(tmp_path: Path):
    """Four parameters of 64 MiB each in a mapped file; each has another first value."""
    rows = np.memmap(tmp_path / "weights", np.float32, "w+", shape=(4, 1 << 12, 1 << 12))
    rows[:, 0, 0] = range(4)
    rows.flush()
    rows = np.memmap(tmp_path / "weights", np.float32, "r", shape=rows.shape)
    names = ("first", "second", "third", "fourth")
    model = Model(ModelConfig.tiny(), {name: jax.device_put(row) for name, row in zip(names, rows, strict=True)})
    assert mapped_bytes(jax.tree.leaves(model.params)) == rows.nbytes
    before = resident_bytes(peak=True)
    number = weights_fingerprint(model)
    assert resident_bytes(peak=True) - before < 16 << 20
    changed = {**model.params, "third": np.array(rows[1])}
    assert weights_fingerprint(Model(model.config, jax.device_put(changed))) != number


def test_amounts_are_for_people():
    assert gigabytes(1_540_000_000) == "1.5 GB"


@pytest.mark.parametrize(
    ("stat", "given_up"), [(None, 0), ("", 0), ("inactive_file many", 0), ("a b c\n\ninactive_file 7", 7)]
)
def test_a_limit_counts_whatever_its_group_tells_of_file_pages(machine: Machine, stat: str | None, given_up: int):
    machine.join("0::/job", "/ . cgroup2 rw")
    machine.limit("job", 10**9, used=4 * 10**8)
    (machine.groups / "job" / "memory.stat").unlink()
    if stat is not None:
        machine.write(machine.groups / "job" / "memory.stat", stat)
    assert free_memory().free == 6 * 10**8 + given_up


@pytest.mark.parametrize("turned", [False, True])
def test_of_several_mounts_the_one_with_the_process_counts(machine: Machine, turned: bool):
    """As in a container that has the machine's groups mounted besides."""
    mounts = ["/ . cgroup2 rw", "/another host cgroup2 rw"]
    machine.join("0::/job", *(mounts[::-1] if turned else mounts))
    machine.limit("job", 3 * 10**9)
    machine.limit("host", 10**9)
    assert free_memory().free == 3 * 10**9


@pytest.mark.parametrize("path", ["/a:b", "/../outside", "/gone (deleted)"])
def test_names_of_groups_may_be_strange(machine: Machine, path: str):
    """A group outside of what is mounted, or removed while the process runs: what is above counts."""
    machine.join(f"0::{path}", "/ . cgroup2 rw")
    machine.limit("a:b" if path == "/a:b" else ".", 10**9)
    assert free_memory().free == 10**9


def test_processes_share_what_is_free():
    """Of 10 GB, mapped weights lie in memory once for all four, others once for each."""
    share = Share(Room(10 * 10**9, "the machine's memory"), 4)
    assert share.beside(0, 0).free == 2_500_000_000
    assert share.beside(2 * 10**9, 2 * 10**9).free == 2 * 10**9
    assert share.beside(2 * 10**9, 0).free == 500_000_000
    assert share.beside(3 * 10**9, 0).free == 0
    assert share.beside(0, 0).bound == "the machine's memory, shared by 4 processes,"
