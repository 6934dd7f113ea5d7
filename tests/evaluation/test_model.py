"""The model that is evaluated, as it is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("mlx.core", exc_type=ImportError)
from azr_mlx.config import Quantization
from azr_mlx.evaluation.model import KV_TOKENS, ROWS, open_model
from azr_mlx.types import Prompt
from tests.tiny import tiny_folder

pytestmark = pytest.mark.backend


@pytest.mark.parametrize(
    ("new", "room", "rows"),
    [(40, 0, ROWS), (4000, 0, KV_TOKENS // 4072), (4000, 99 * 4072, 99), (4000, 1 << 30, ROWS)],
)
def test_short_answers_are_decoded_many_at_once_and_long_ones_as_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: int, room: int, rows: int
) -> None:
    from azr_mlx.backends.base import Sampling
    from azr_mlx.backends.rollout import RolloutEngine

    tiny_folder(tmp_path / "tiny")
    folder = tmp_path / "tiny"
    backend, _ = open_model(
        str(folder),
        None,
        Quantization(bits=0),
        "mlx",
        lambda opened, engine: room if (opened, engine) == (folder, "mlx") else 0,
    )
    seen: list[int] = []

    def decode(engine: RolloutEngine, waiting: list, done: dict, on_step: object) -> None:
        seen.append(engine._place_count(waiting))
        done.update((row.index, None) for row in waiting)

    monkeypatch.setattr(RolloutEngine, "_decode", decode)
    prompts = [Prompt("abcdefghi", tuple(range(9)), "few_shot")] * 200
    backend.generate(prompts, [Sampling(new)] * 200, list(range(200)))
    assert seen == [rows]
