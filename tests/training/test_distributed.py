"""What two ranks give each other: verdicts in the order of the jobs, and rank 0's files."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

from azr_mlx.sandbox import Job, Result
from azr_mlx.training.distributed import SharedSandbox, share_files
from azr_mlx.types import Status

pytestmark = pytest.mark.pure


class Thread:
    """A rank of two, in a thread of this process."""

    size = 2

    def __init__(self, rank: int, table: list[bytes], barrier: Barrier):
        self.rank, self.table, self.barrier = rank, table, barrier

    def gather_bytes(self, data: bytes) -> list[bytes]:
        self.table[self.rank] = data
        self.barrier.wait(10)
        every = list(self.table)
        self.barrier.wait(10)
        return every

    def sum(self, arrays: Any) -> Any:
        raise NotImplementedError


def on_both(work: Callable[[Thread], Any]) -> list[Any]:
    table, barrier = [b"", b""], Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(work, (Thread(rank, table, barrier) for rank in (0, 1))))


class Judge:
    """Says of each job which rank ran it."""

    def __init__(self, rank: int):
        self.rank, self.seen = rank, list[str]()

    def run(self, jobs: list[Job]) -> list[Result]:
        self.seen += [job.id for job in jobs]
        return [
            Result(job.id, Status.OK, value=f"{self.rank} \\ud800 é", seconds=1 / 3) for job in jobs
        ]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_each_job_is_judged_once_and_all_ranks_get_all_verdicts(count):
    judges = [Judge(0), Judge(1)]

    def work(world: Thread) -> list[Result]:
        sandbox = SharedSandbox(judges[world.rank], world)
        with sandbox.batch() as batch:
            for i in range(count):
                batch.submit(Job(str(i), "f = 1", "f"))
            batch.poll()
            assert list(batch.ready()) == []
            batch.wait()
            return list(batch.ready())

    first, second = on_both(work)
    assert first == second
    assert [result.id for result in first] == [str(i) for i in range(count)]
    assert judges[0].seen == [str(i) for i in range(0, count, 2)]
    assert judges[1].seen == [str(i) for i in range(1, count, 2)]


def test_rank_0_s_files_are_in_the_other_one_s_folder(tmp_path):
    own = tmp_path / "0"
    own.mkdir()
    (own / "a.bin").write_bytes(bytes(range(256)))
    (own / "empty").write_bytes(b"")

    def work(world: Thread) -> None:
        files = sorted(own.glob("*")) if world.rank == 0 else []
        share_files(world, files, tmp_path / str(world.rank) / "made")

    on_both(work)
    assert not (own / "made").exists()
    received = tmp_path / "1" / "made"
    assert {f.name: f.read_bytes() for f in received.iterdir()} == {
        "a.bin": bytes(range(256)),
        "empty": b"",
    }
