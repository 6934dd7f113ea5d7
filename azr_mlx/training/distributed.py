"""The ranks (processes) of a run: how they start, share the judging, and get the files of rank
0."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from azr_mlx.backends.ranks import Alone, World, gather
from azr_mlx.backends.select import launcher
from azr_mlx.errors import UsageError
from azr_mlx.sandbox import Job, Result
from azr_mlx.tasks.gate import Runner
from azr_mlx.types import Status

# How long another rank may be silent before it counts as dead.
SILENCE = timedelta(minutes=30)


def open_world(backend: str) -> World:
    """The ranks that ``mlx.launch`` or ``torchrun`` started; a single rank if neither was used.

    Raises UsageError if there are fewer GPUs than ranks.
    """
    if launcher()[0] != backend:
        return Alone()
    if backend == "mlx":
        import mlx.core as mx

        from azr_mlx.backends.mlx.ranks import MlxWorld

        group = mx.distributed.init(strict=True)
        return MlxWorld(group) if group.size() > 1 else Alone()
    import torch
    import torch.distributed as dist

    from azr_mlx.backends.torch.ranks import TorchWorld

    on_gpu, local = torch.cuda.is_available(), int(os.environ.get("LOCAL_RANK", "0"))
    if on_gpu:
        if local >= torch.cuda.device_count():
            raise UsageError(
                f"torchrun --nproc-per-node: this machine has {torch.cuda.device_count()} GPUs, "
                f"but local rank {local} was started; start one rank per GPU"
            )
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=SILENCE)
    return TorchWorld(torch.device("cuda" if on_gpu else "cpu"))


class SharedSandbox:
    """A sandbox on every rank: each rank judges its share of the jobs, and all ranks get all
    verdicts."""

    def __init__(self, sandbox: Runner, world: World):
        self.sandbox, self.world = sandbox, world

    def run(self, jobs: Sequence[Job]) -> list[Result]:
        # Neighbouring jobs take about equally long, so each rank takes every n-th job.
        n = self.world.size
        done = self.sandbox.run(jobs[self.world.rank :: n])
        parts = gather(self.world, [_to_json(result) for result in done])
        return [_from_json(parts[i % n][i // n]) for i in range(len(jobs))]

    def batch(self) -> Any:
        return _SharedBatch(self)


class _SharedBatch:
    """Like ``JobBatch``, but all jobs run when ``wait`` is called."""

    def __init__(self, sandbox: SharedSandbox):
        self.sandbox, self.jobs, self.done = sandbox, list[Job](), list[Result]()

    def __enter__(self) -> _SharedBatch:
        return self

    def __exit__(self, *raised: object) -> None:
        self.jobs.clear()

    def submit(self, job: Job) -> None:
        self.jobs.append(job)

    def poll(self) -> None:
        """Do nothing: jobs run when ``wait`` is called."""

    def wait(self) -> None:
        """Run all submitted jobs. Every rank must have submitted the same jobs."""
        taken, self.jobs = self.jobs, []
        self.done += self.sandbox.run(taken)

    def ready(self) -> Iterator[Result]:
        taken, self.done = self.done, []
        return iter(taken)


def _to_json(result: Result) -> dict[str, Any]:
    return {
        "id": result.id,
        "status": result.status.value,
        "value": result.value,
        "detail": result.detail,
        "seconds": result.seconds,
        "steps": result.steps,
    }


def _from_json(row: dict[str, Any]) -> Result:
    return Result(**{**row, "status": Status(row["status"])})


def share_files(world: World, files: Sequence[Path], into: Path) -> None:
    """Copy the files of rank 0 into the folder ``into`` of every other rank, under the same names.
    Ranks may be on machines with different disks."""
    if world.size == 1:
        return
    names = gather(world, [file.name for file in files])[0]
    for name in names:  # one at a time, since files are large
        data = (files[0].parent / name).read_bytes() if world.rank == 0 else b""
        received = world.gather_bytes(data)[0]
        if world.rank > 0:
            into.mkdir(parents=True, exist_ok=True)
            (into / name).write_bytes(received)
