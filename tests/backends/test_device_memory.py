"""What MLX is allowed to hold of a GPU's memory. No GPU is needed: MLX is asked, and not used."""

from __future__ import annotations

import pytest

mx = pytest.importorskip("mlx.core", reason="mlx is not installed")

from azr_mlx.backends.mlx import MlxBackend, device_memory  # noqa: E402
from azr_mlx.backends.mlx.device_memory import bound, wired  # noqa: E402
from azr_mlx.commands.train import backend_for  # noqa: E402
from azr_mlx.config import load  # noqa: E402

pytestmark = pytest.mark.backend

GB = 10**9


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The limits that MLX is given, on a Mac with 20 GB whose working set is 12 GB."""
    found: dict[str, int] = {}
    for name in ("memory", "cache", "wired"):
        monkeypatch.setattr(mx, f"set_{name}_limit", lambda n, name=name: found.update({name: n}))
    monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    info = {"max_recommended_working_set_size": 12 * GB, "memory_size": 20 * GB}
    monkeypatch.setattr(mx, "device_info", lambda: info)
    return found


@pytest.mark.parametrize(("limit", "held"), [(0, 12), (8, 8), (20, 12)])
def test_no_more_is_held_than_was_planned_for(asked, limit: int, held: int) -> None:
    bound(limit * GB)
    assert asked == {"memory": held * GB, "cache": held * GB // 8, "wired": held * GB}


@pytest.mark.parametrize(
    ("memory", "limit", "most"),
    [
        (8, 5.3, 2.0),  # 6 GiB are left to the system
        (16, 10.7, 10.0),
        (32, 21.3, 20.8),  # a third and a little
        (64, 48.0, 41.6),
        (64, 10.0, 10.0),
        (4, 2.7, 0.0),
        (0, 10.0, 10.0),  # a machine that does not say
    ],
)
def test_wired_memory_leaves_room_for_the_system(memory: int, limit: float, most: float) -> None:
    """Wired pages are neither compressed nor swapped, so all else is squeezed into the rest."""
    assert wired(int(limit * 2**30), memory << 30) / 2**30 == pytest.approx(most, abs=1e-6)


def test_a_mac_with_16_gb_holds_its_working_set_and_wires_less(
    asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = {"max_recommended_working_set_size": 11 << 30, "memory_size": 16 << 30}
    monkeypatch.setattr(mx, "device_info", lambda: info)
    bound(0)
    assert (asked["memory"], asked["wired"]) == (11 << 30, 10 << 30)


def test_nothing_is_wired_but_on_metal(asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.metal, "is_available", lambda: False)
    monkeypatch.setattr(mx, "device_info", lambda: {"total_memory": 80 * GB})
    bound(0)
    assert asked == {}
    bound(40 * GB)
    assert asked == {"memory": 40 * GB, "cache": 5 * GB}


def test_a_run_gives_its_limit_to_mlx(monkeypatch: pytest.MonkeyPatch) -> None:
    class Reached(Exception):
        """The model need not be loaded."""

    found: list[int] = []
    monkeypatch.setattr(device_memory, "bound", found.append)

    def stop(*args: object, **options: object) -> None:
        raise Reached

    monkeypatch.setattr(MlxBackend, "from_folder", stop)
    for given, meant in (("0", 0), ("7.5", int(7.5 * GB))):
        with pytest.raises(Reached):
            backend_for(load("quickstart", [f"memory_limit_gb={given}", "backend=mlx"]))
        assert found.pop() == meant


def test_a_cpu_is_left_alone(asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx, "default_device", lambda: mx.cpu)
    bound(8 * GB)
    assert asked == {}
