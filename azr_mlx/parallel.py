"""The ranks of a run: starting them, sharing their judging, and giving all what rank 0 has."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from azr_mlx.backends.world import Alone, World, gather, share
from azr_mlx.sandbox import Job, Result
from azr_mlx.tasks import Runner
from azr_mlx.types import Status

# Set by mlx.launch, for one engine or the other.
_MLX = ("MLX_HOSTFILE", "MLX_IBV_DEVICES", "MLX_JACCL_COORDINATOR", "NCCL_HOST_IP")


def open_world(backend: str) -> World:
    """The ranks that ``mlx.launch`` or ``torchrun`` has started; one where neither has."""
    if backend == "mlx" and any(os.environ.get(name) for name in _MLX):
        import mlx.core as mx

        from azr_mlx.backends.mlx.world import MlxWorld

        group = mx.distributed.init(strict=True)
        return MlxWorld(group) if group.size() > 1 else Alone()
    if backend == "torch" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        import torch
        import torch.distributed as dist

        from azr_mlx.backends.torch.world import TorchWorld

        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return TorchWorld(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return Alone()


class SharedSandbox:
    """A sandbox on every rank, each of which judges its share; all get all verdicts."""

    def __init__(self, sandbox: Runner, world: World):
        self.sandbox, self.world = sandbox, world

    def run(self, jobs: Sequence[Job]) -> list[Result]:
        own = share(self.world, [1.0] * len(jobs))
        done = self.sandbox.run(jobs[own])
        rows = gather(self.world, [_to_json(result) for result in done])
        return [_from_json(row) for part in rows for row in part]

    def batch(self) -> Any:
        return _SharedBatch(self)


class _SharedBatch:
    """``JobBatch``, all of which is run when the results are asked for."""

    def __init__(self, sandbox: SharedSandbox):
        self.sandbox, self.jobs = sandbox, list[Job]()

    def __enter__(self) -> _SharedBatch:
        return self

    def __exit__(self, *raised: object) -> None:
        self.jobs.clear()

    def submit(self, job: Job) -> None:
        self.jobs.append(job)

    def poll(self) -> None:
        pass

    def results(self) -> list[Result]:
        taken, self.jobs = self.jobs, []
        return self.sandbox.run(taken)


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
    """Rank 0's files, by name, in the folder ``into`` of every other rank: their disks may be
    others."""
    if world.size == 1:
        return
    sent = {f.name: base64.b64encode(f.read_bytes()).decode() for f in files}
    received = gather(world, sent if world.rank == 0 else None)[0]
    if world.rank > 0:
        into.mkdir(parents=True, exist_ok=True)
        for name, data in received.items():
            (into / name).write_bytes(base64.b64decode(data))
