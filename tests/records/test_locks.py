"""What is assumed of the locks of a file system is tested, and told where it does not hold."""

import fcntl
import multiprocessing
from pathlib import Path

import pytest

from lora_scaling.records import doubts_about_locks, locked


def mounts(folder: Path, kind: str, options: str) -> Path:
    """A table of mounts in which `folder` is a file system of its own."""
    table = folder.parent / "mounts"
    place = str(folder).replace(" ", "\\040")
    table.write_text(f"/dev/vda / ext4 rw,relatime 0 0\nhost:/x {place} {kind} {options} 0 0\nproc /proc proc rw 0 0\n")
    return table


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("ext4", "rw"),
        ("nfs4", "rw,vers=4.2,local_lock=none"),
        ("nfs", "rw,vers=3,local_lock=none"),
        ("lustre", "rw,flock"),
    ],
)
def test_locks_that_hold_are_not_doubted(kind: str, options: str, tmp_path: Path) -> None:
    folder = tmp_path / "shared runs"
    folder.mkdir()
    assert doubts_about_locks(folder, mounts(folder, kind, options)) is None
    assert list(folder.iterdir()) == []
    with locked(folder) as mine:  # the test is in nobody's way
        assert mine
        assert doubts_about_locks(folder, mounts(folder, kind, options)) is None


@pytest.mark.parametrize(
    ("kind", "options", "how"),
    [
        ("nfs", "rw,vers=3,nolock", "nfs with nolock"),
        ("nfs4", "rw,local_lock=all", "nfs4 with local_lock=all"),
        ("lustre", "rw,localflock", "lustre with localflock"),
        ("fuse.sshfs", "rw", "fuse.sshfs"),
    ],
)
def test_locks_that_other_hosts_do_not_see_are_told(kind: str, options: str, how: str, tmp_path: Path) -> None:
    folder = tmp_path / "shared runs"
    folder.mkdir()
    doubt = doubts_about_locks(folder / "study", mounts(folder, kind, options))
    assert doubt is not None
    assert doubt.startswith(f"{folder / 'study'} is mounted as {how}, whose locks other hosts do not see")


def test_locks_that_keep_nobody_out_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a file system that takes each lock and forgets it."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    doubt = doubts_about_locks(tmp_path)
    assert doubt is not None
    assert "keep no two processes apart" in doubt


def _hold(folder: Path, taken: "multiprocessing.Queue[int]", number: int) -> None:
    with locked(folder) as mine:
        if mine:
            taken.put(number)
        _barrier.wait(60)  # nobody lets go before all have asked


_barrier = multiprocessing.get_context("fork").Barrier(200)


@pytest.mark.simulation
def test_of_two_hundred_workers_one_gets_a_run(tmp_path: Path) -> None:
    """All ask for the lock while one has it: each is answered at once, and nothing is made twice."""
    context = multiprocessing.get_context("fork")
    taken: multiprocessing.Queue[int] = context.Queue()
    workers = [context.Process(target=_hold, args=(tmp_path / "run", taken, number)) for number in range(200)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 200
    assert taken.get(timeout=5) in range(200)
    assert taken.empty()
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
