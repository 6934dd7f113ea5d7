"""Files that are damaged at random, with fixed seeds: every reader gives right values, or one line
that says what is wrong. Nothing is half-written, and nothing hangs."""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from azr_mlx import run_folder
from azr_mlx.backends.process_memory import peak_bytes
from azr_mlx.cli import main
from azr_mlx.config import Config, Lora, Quantization, Rollout, Solver, load
from azr_mlx.errors import AzrError
from azr_mlx.evaluation import benchmarks
from azr_mlx.evaluation import held_out as held_out_tasks
from azr_mlx.evaluation.contamination import tasks_of_run
from azr_mlx.evaluation.store import read_samples
from azr_mlx.models import adapters
from azr_mlx.monitoring import report
from azr_mlx.monitoring.terminal import Display
from azr_mlx.tasks.prompts import chosen_form, load_form
from azr_mlx.training.run import Trainer
from azr_mlx.types import Task, TaskKind
from tests.damage import damaged, json_lines, wrong
from tests.experiences import experience
from tests.fake import FakeBackend
from tests.scripted import ROWS

pytestmark = pytest.mark.backend

SEEDS = range(100)  # with damaged bytes, and as many with other values
FEW = range(25)  # of what takes longer, or has only one way to be wrong
MOST_BYTES = 1 << 30

PLUS = {"base_input": [[1]], "plus_input": [[2]], "atol": 0, "contract": ""}
APPS = {
    "problem_id": 1,
    "question": "Add one.",
    "solutions": '["print(1)"]',
    "input_output": '{"inputs": ["1\\n"], "outputs": ["2\\n"]}',
    "difficulty": "interview",
    "starter_code": "",
}
CRUXEVAL = {"code": "def f(a):\n    return a", "input": "1", "output": "1", "id": "sample_0"}
BENCHMARKS = {
    "humaneval": ROWS[0],
    "humaneval-plus": {**ROWS[0], **PLUS},
    "mbpp": {
        "task_id": 11,
        "text": "Write a function that adds.",
        "code": "def add(a, b):\n    return a + b",
        "test_list": ["assert add(1, 2) == 3"],
        "test_setup_code": "",
    },
    "mbpp-plus": {
        **PLUS,
        "task_id": "Mbpp/2",
        "prompt": '"""\nWrite it.\nassert f(1) == 1\n"""',
        "entry_point": "f",
        "canonical_solution": "def f(x):\n    return x",
        "assertion": "assert f(1) == 1",
    },
    "apps": APPS,
    "apps-interview": {**APPS, "input_output": '{"fn_name": "f", "inputs": [[1]], "outputs": [2]}'},
    "cruxeval-i": CRUXEVAL,
    "cruxeval-o": CRUXEVAL,
    "livecodebench": {
        "question_id": "a",
        "question_content": "Add one.",
        "contest_date": "2024-10-31T00:00:00",
        "difficulty": "easy",
        "starter_code": "",
        "public_test_cases": '[{"input": "1", "output": "2", "testtype": "stdin"}]',
        # a compressed pickle of the same text
        "private_test_cases": "eJxrYJlqwQABPSbR1UqZeQWlJUpWCkqGSjoKSvmlJVCuEYhbklpcUlJZkAoSKC5J"
        "ycxTqo2dogcAOgkSqg==",
        "metadata": "{}",
    },
}
TASK = Task.create(TaskKind.DEDUCTION, "def f(a):\n    return a", ("(1,)",), ("1",))
BUFFER_ROW = {"task": TASK.to_json(), "attempts": 1, "successes": 0}
ADAPTER_CONFIG = {
    "fine_tune_type": "lora",
    "num_layers": 2,
    "model": "m",
    "lora_parameters": {"rank": 2, "scale": 2.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]},
}


@pytest.fixture(autouse=True)
def in_little_memory() -> Iterator[None]:
    """Fails a test after which the process has grown by more than ``MOST_BYTES``."""
    before = peak_bytes()
    yield
    assert peak_bytes() - before < MOST_BYTES


def in_every_way(
    write: Callable[[int], object], read: Callable[[], object], seeds: range = SEEDS
) -> None:
    """Read what is written for each seed. Some damage is none, and some has to be noticed."""
    outcomes = set()
    for seed in seeds:
        write(seed)
        try:
            read()
            outcomes.add("read")
        except AzrError as error:
            assert str(error)
            outcomes.add("refused")
    assert "refused" in outcomes


def bytes_of(path: Path, whole: bytes) -> Callable[[int], object]:
    return lambda seed: path.write_bytes(damaged(whole, seed))


def values_of(path: Path, value: Any) -> Callable[[int], object]:
    return lambda seed: path.write_bytes(json_lines([wrong(value, seed)]))


# -- evaluation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BENCHMARKS)
def test_data_of_a_benchmark(name: str, tmp_path: Path) -> None:
    data, row = tmp_path / "data.jsonl", BENCHMARKS[name]
    data.write_bytes(json_lines([row]))
    assert len(benchmarks.load(name, data).problems) == 1
    in_every_way(bytes_of(data, json_lines([row])), lambda: benchmarks.load(name, data))
    in_every_way(values_of(data, row), lambda: benchmarks.load(name, data))


def test_samples(tmp_path: Path) -> None:
    samples, row = tmp_path / "samples.jsonl", {"task_id": "HumanEval/0", "completion": " x"}
    in_every_way(bytes_of(samples, json_lines([row] * 3)), lambda: read_samples(samples))
    in_every_way(values_of(samples, row), lambda: read_samples(samples))


@pytest.mark.parametrize("option", ["--data", "--samples"])
def test_eval_says_it_in_a_line(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = {
        "--data": json_lines(ROWS[:1]),
        "--samples": json_lines([{"task_id": ROWS[0]["task_id"], "completion": " return x"}]),
    }
    for name, content in whole.items():
        Path(name).write_bytes(content)
    words = ["eval", "--data=./--data", "--samples=./--samples", "--quiet"]
    for seed in FEW:
        Path(option).write_bytes(damaged(whole[option], seed))
        code = main(words)
        said = capsys.readouterr().err.splitlines()
        assert code in (0, 2) and len(said) == (code != 0), (seed, said)
        assert "--debug" not in "".join(said), (seed, said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["--data", "--samples"]


# -- a run -----------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path, root: Path) -> Path:
    """A run's folder, as the report reads it."""
    row = {"entropy": 0.5, "solve_rate/deduction": 0.1, "health/valid": 0.0, "time/step": 2.0}
    start = {"time": "2026-01-01", "backend": "mlx (x)", "model": {"source": "a", "path": "b"}}
    verdicts = {way: {TASK.id: [1.0, 0.0]} for way in held_out_tasks.WAYS}
    held_out = {"settings": {}, "tasks": {"in_range": [TASK.to_json()], "harder": []}}
    (tmp_path / "rollouts").mkdir()
    content = {
        "metrics.jsonl": json_lines([{**row, "step": step} for step in (1, 2, 3)]),
        "config.yaml": (root / "config" / "quickstart.yaml").read_bytes(),
        "run.json": json_lines([{"starts": [start], "best": None}]),
        "held_out.json": json_lines([{**held_out, "before": verdicts, "after": verdicts}]),
        "rollouts/step_000001.jsonl": json_lines([experience(text="a").to_json()] * 3),
    }
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


@pytest.mark.parametrize(
    "name",
    ["metrics.jsonl", "config.yaml", "run.json", "held_out.json", "rollouts/step_000001.jsonl"],
)
def test_a_run_is_reported(name: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be read is left out, but for the metrics, without which there is no report."""

    def shown() -> None:
        read = report.read(run)
        report.write(read)
        json.dumps(report.to_json(read))

    whole = (run / name).read_bytes()
    rows = [] if name.endswith(".yaml") else [json.loads(line) for line in whole.splitlines()]
    for seed in SEEDS:
        for data in (damaged(whole, seed), json_lines([wrong(row, seed) for row in rows])):
            (run / name).write_bytes(data)
            try:
                shown()
            except AzrError as error:
                assert name == "metrics.jsonl" and "there is no step" in str(error)
    (run / name).write_bytes(b"\0")
    code = main(["report", str(run)])
    said = capsys.readouterr().err.splitlines()
    assert code == len(said) * 2 == (2 if name == "metrics.jsonl" else 0)


def test_the_tasks_of_a_run(tmp_path: Path) -> None:
    file, rows = tmp_path / "buffer.jsonl.gz", json_lines([BUFFER_ROW] * 3)
    read = lambda: tasks_of_run(tmp_path)  # noqa: E731
    in_every_way(bytes_of(file, gzip.compress(rows)), read)
    in_every_way(lambda seed: file.write_bytes(gzip.compress(damaged(rows, seed))), read)
    in_every_way(
        lambda seed: file.write_bytes(gzip.compress(json_lines([wrong(BUFFER_ROW, seed)]))), read
    )


def test_a_configuration(tmp_path: Path, root: Path) -> None:
    import yaml

    file, whole = tmp_path / "a.yaml", (root / "config" / "quickstart.yaml").read_bytes()
    in_every_way(bytes_of(file, whole), lambda: load(file))
    in_every_way(values_of(file, yaml.safe_load(whole)), lambda: load(file))


@pytest.mark.parametrize("name", ["few_shot", "chat", "compact"])
def test_a_prompt_form(name: str, tmp_path: Path, root: Path) -> None:
    import yaml

    file = tmp_path / "form.yaml"
    whole = (root / "config" / "prompts" / f"{name}.yaml").read_bytes()
    text = whole.decode().replace("\n", "\r\n")
    for encoding in ("utf-8-sig", "utf-16"):
        file.write_bytes(text.encode(encoding))
        load_form(file)

    def read() -> None:
        chosen_form(str(file), Config())

    in_every_way(bytes_of(file, whole), read, range(12))
    in_every_way(values_of(file, yaml.safe_load(whole)), read, range(12))


def test_aliases_without_end_are_refused_before_they_fill_the_memory(tmp_path: Path) -> None:
    """Each list is the one before it, nine times: 9**12 values in all."""
    file = tmp_path / "form.yaml"
    lists = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 13)]
    file.write_text("\n".join(["a0: &a0 [1]", *lists, "style: *a12", "name: *a12"]))
    with pytest.raises(AzrError, match="its aliases repeat values without end"):
        chosen_form(str(file), Config())


# -- checkpoints -----------------------------------------------------------------------------------


class NoSandbox:
    """Resuming runs no program."""


def trainer(run: Path) -> Trainer:
    asked = Rollout(form="few_shot"), Solver(strategies=("direct",))
    config = Config(kl_penalty="none", keep_checkpoints=0, rollout=asked[0], solver=asked[1])
    backend = FakeBackend(lambda prompt, n: "")
    return Trainer(config, run, backend, NoSandbox(), display=Display(5, quiet=True))  # type: ignore[arg-type]


@pytest.fixture
def resumed(tmp_path: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A checkpoint, and what resumes it: if it is refused, no file of the run has changed."""
    first = trainer(tmp_path)
    first.selfplay.memory.tasks.add(TASK)
    first.step, first.row = 1, {"step": 1, "entropy": 0.5}
    first.metrics.write(first.row)
    path = first._save(first._snapshot())

    def files() -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    def resume() -> None:
        before = files()
        try:
            trainer(tmp_path).resume(path)
        except AzrError:
            assert files() == before
            raise

    resume()
    yield path, resume


@pytest.mark.parametrize("name", ["state.json", "buffer.jsonl.gz", "weights.json"])
def test_a_checkpoint_with_damaged_bytes(
    name: str, resumed: tuple[Path, Callable[[], None]]
) -> None:
    path, resume = resumed
    seeds = SEEDS if name == run_folder.STATE_FILE else FEW
    in_every_way(bytes_of(path / name, (path / name).read_bytes()), resume, seeds)


def sealed(state: Any) -> Any:
    """The state with its own hash made anew, as if another program had written it."""
    if not isinstance(state, dict) or not isinstance(state.get("sha256"), dict):
        return state
    hashes = {k: v for k, v in state["sha256"].items() if k != run_folder.STATE_FILE}
    own = run_folder.seal({**state, "sha256": hashes})
    return {**state, "sha256": {**hashes, run_folder.STATE_FILE: own}}


def test_a_checkpoint_with_a_state_of_another_program(
    resumed: tuple[Path, Callable[[], None]],
) -> None:
    path, resume = resumed
    file = path / run_folder.STATE_FILE
    state = json.loads(file.read_text())
    in_every_way(lambda seed: file.write_bytes(json_lines([sealed(wrong(state, seed))])), resume)


def test_a_checkpoint_with_tasks_of_another_program(
    resumed: tuple[Path, Callable[[], None]],
) -> None:
    path, resume = resumed
    file, buffer = path / run_folder.STATE_FILE, path / run_folder.BUFFER_FILE
    state = json.loads(file.read_text())

    def write(seed: int) -> None:
        data = gzip.compress(json_lines([wrong(BUFFER_ROW, seed)]))
        buffer.write_bytes(data)
        hashes = {**state["sha256"], buffer.name: hashlib.sha256(data).hexdigest()}
        file.write_bytes(json_lines([sealed({**state, "sha256": hashes})]))

    in_every_way(write, resume)


def test_a_changed_number_in_the_state_is_noticed(
    resumed: tuple[Path, Callable[[], None]],
) -> None:
    path, resume = resumed
    file = path / run_folder.STATE_FILE
    changed = file.read_text().replace('"entropy": 0.5', '"entropy": 0.6')
    file.write_text(changed)
    with pytest.raises(run_folder.CheckpointError, match=r"state\.json is damaged"):
        resume()
    state = json.loads(changed)
    del state["sha256"][run_folder.STATE_FILE]  # as in version 0.1, which did not record it
    file.write_text(json.dumps(state))
    resume()


# -- models and adapters ---------------------------------------------------------------------------


def test_the_configuration_of_adapters(tmp_path: Path) -> None:
    file = tmp_path / "adapter_config.json"

    def read() -> None:
        adapters.read_lora(tmp_path)
        adapters.base_of(tmp_path)

    in_every_way(bytes_of(file, json_lines([ADAPTER_CONFIG])), read)
    in_every_way(values_of(file, ADAPTER_CONFIG), read)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny import tiny_folder

    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_folder(folder)
    return folder


@pytest.fixture(scope="module")
def backend(model: Path) -> Any:
    from azr_mlx.backends.mlx import MlxBackend

    return MlxBackend.from_folder(model, Lora(rank=2), base=str(model))


def with_header(whole: bytes, seed: int) -> bytes:
    """A safetensors file with other values in its header."""
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.dumps(wrong(json.loads(whole[8 : 8 + length]), seed)).encode()
    return struct.pack("<Q", len(header)) + header + whole[8 + length :]


@pytest.mark.parametrize("name", ["adapters", "value_head", "optimizer"])
def test_arrays_of_a_checkpoint(name: str, backend: Any, tmp_path: Path) -> None:
    backend.save(tmp_path)
    file = tmp_path / f"{name}.safetensors"
    whole = file.read_bytes()

    def read() -> None:
        try:
            backend.load(tmp_path)
        except (LookupError, RuntimeError, TypeError, ValueError) as error:  # as resume takes them
            raise AzrError(repr(error)) from error

    in_every_way(bytes_of(file, whole), read)
    in_every_way(lambda seed: file.write_bytes(with_header(whole, seed)), read)


def test_adapters_are_refused_by_name(backend: Any, model: Path, tmp_path: Path) -> None:
    from azr_mlx.backends.select import load_adapters
    from azr_mlx.models.mlx_model import attach, open_model

    backend.save(tmp_path)
    file = tmp_path / "adapters.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(AzrError, match=r"not a whole safetensors file: .*; fetch it again"):
        load_adapters(backend, tmp_path, "--adapter-path")
    with pytest.raises(AzrError, match=r"not a whole safetensors file: .*; fetch it again$"):
        attach(open_model(model).model, tmp_path)


@pytest.mark.parametrize(
    ("name", "seeds"),
    [
        ("config.json", SEEDS),
        ("model.safetensors", SEEDS),
        ("tokenizer.json", FEW),
        ("tokenizer_config.json", FEW),
    ],
)
def test_a_model(name: str, seeds: range, model: Path, tmp_path: Path) -> None:
    from azr_mlx.models.locate import resolve
    from azr_mlx.models.mlx_model import open_model
    from azr_mlx.training.memory import model_config
    from azr_mlx.training.memory.shape import Shape, UnknownModel

    for file in model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path, whole = tmp_path / name, (tmp_path / name).read_bytes()

    def read() -> None:
        found = resolve(str(tmp_path), quantization=Quantization(bits=0), cache_dir=tmp_path / "c")
        with suppress(UnknownModel):
            Shape.from_config(model_config(str(tmp_path)))
        open_model(found.path)

    read()
    in_every_way(bytes_of(path, whole), read, seeds)
    if name.endswith("config.json"):
        in_every_way(values_of(path, json.loads(whole)), read, seeds)


def test_a_model_whose_config_has_a_byte_order_mark_is_loaded(model: Path, tmp_path: Path) -> None:
    from azr_mlx.models.locate import resolve
    from azr_mlx.models.mlx_model import open_model

    for file in model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = tmp_path / "config.json"
    for encoding in ("utf-8-sig", "utf-16"):
        config.write_text(json.dumps(json.loads((model / "config.json").read_text())), encoding)
        found = resolve(str(tmp_path), quantization=Quantization(bits=0), cache_dir=tmp_path / "c")
        assert found.path != tmp_path and open_model(found.path).config["hidden_size"] == 32


def test_export_measures_on_rollouts_that_are_whole(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from azr_mlx.commands.export import _measured

    file = run / "rollouts" / "step_000001.jsonl"
    whole, row = file.read_bytes(), json.loads(file.read_text().splitlines()[0])
    assert _measured(run) == ([([1], [2])] * 3, "3 rollouts of step_000001")
    in_every_way(bytes_of(file, whole), lambda: _measured(run))
    in_every_way(values_of(file, row), lambda: _measured(run))
    file.write_bytes(b"")
    assert _measured(run) == (None, "a fixed text")
