"""The command line in a subprocess: exit codes, one-line errors, and what goes to which stream."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from azr_mlx import __version__, cli
from azr_mlx.cli import program
from azr_mlx.errors import AzrError
from tests.conftest import ROOT, Cli

pytestmark = pytest.mark.e2e


@pytest.mark.alone
def test_help_is_fast_and_imports_nothing_heavy(cli: Cli) -> None:
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        done = cli("--help")
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0
    assert {"train", "convert", "generate"} <= set(done.stdout.split())
    # 0.3 s on a quiet machine; the fastest of five, and twice that, is what a busy one still gives.
    assert min(seconds) < 0.6, seconds
    code = "import sys, azr_mlx.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not {"mlx", "numpy", "yaml", "rich", "transformers"} & set(loaded.stdout.split())


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("azr-mlx tr", "train"),
        ("azr-mlx train --resume-", "--resume-adapter-file"),
        ("azr-mlx train -c qu", "quickstart"),
        ("azr-mlx train --backend t", "torch"),
        ("azr-mlx eval --benchmark humaneval,mbpp-s", "humaneval,mbpp-sanitized"),
        ("azr-mlx export --to g", "gguf"),
        ("azr-mlx export --adapter-path l", "latest"),
        ("azr-mlx report l", "latest"),
    ],
)
def test_a_shell_that_asks_gets_completions(cli: Cli, typed: str, wanted: str) -> None:
    asked = {
        "_AZR_MLX_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(typed.count(" ")),
    }
    done = cli(env={**os.environ, "PYTHONPATH": str(ROOT), **asked})
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [wanted], "")


def test_the_completion_can_be_shown(cli: Cli) -> None:
    plain = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = cli("--show-completion", "bash", env={**os.environ, "PYTHONPATH": str(ROOT), **plain})
    assert done.returncode == 0
    assert "complete -o default -F _azr_mlx_completion azr-mlx" in done.stdout


RUN_AND_ASK = """import sys
{first}
from azr_mlx.cli import main
code = main({given})
import transformers
found = "torch" if transformers.is_torch_available() else "no torch"
print(found, "torch" in sys.modules, code)"""


@pytest.mark.parametrize(
    ("first", "given", "expected"),
    [
        ("", "", "no torch False 0"),
        ("", "sys.argv[1:]", "torch True 0"),
        ("import transformers", "", "torch True 0"),
    ],
    ids=["a command's own process", "a process that goes on", "one that knows torch"],
)
def test_a_command_on_mlx_leaves_torch_out_of_its_own_process_alone(
    tmp_path: Path, first: str, given: str, expected: str
) -> None:
    """transformers imports torch if it can, which takes longer than all the rest of a start, and
    fails if torch goes after it was found. datasets fails if None is left in its place."""
    words = ["convert", "--hf-path", "package:azr_mlx/nano/model", "--mlx-path", "out"]
    done = subprocess.run(
        [sys.executable, "-c", RUN_AND_ASK.format(first=first, given=given), *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == expected


@pytest.mark.parametrize(
    "words",
    [
        ("convert", "--hf-path", "m", "--mlx-path", "out"),
        ("generate", "-p", "x", "--model", "m"),
        ("export", "--adapter-path", "a", "--out", "out"),
    ],
    ids=lambda words: words[0],
)
def test_a_command_that_needs_mlx_says_so(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    assert cli.main(words) == 2
    line = capsys.readouterr().err
    assert "backend: mlx: MLX does not import" in line and "pip install 'azr-mlx" in line


def test_version(cli: Cli) -> None:
    assert cli("--version").stdout == f"azr-mlx {__version__}\n"


def test_no_command_shows_the_help_and_is_a_usage_error(cli: Cli) -> None:
    done = cli()
    assert done.returncode == 2
    assert "Commands:" in done.stdout


@pytest.mark.parametrize("command", ["train", "convert", "generate"])
def test_every_command_has_help(cli: Cli, command: str) -> None:
    done = cli(command, "--help")
    assert done.returncode == 0
    assert "--debug" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["trane"], "No such command 'trane'"),
        (["train", "--sed", "3"], "No such option: --sed"),
        (["train", "--seed", "x"], "Invalid value for '--seed'"),
        (["generate", "--model", "m"], "Missing option '-p' / '--prompt'"),
        (["generate", "-p", "x", "--model", "m", "--top-p", "2"], "Invalid value for '--top-p'"),
        (
            ["--quiet", "train", "-c", "nano"],
            "No such option: --quiet; options come after the command (see azr-mlx train --help)",
        ),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    cli: Cli, arguments: list[str], fragment: str
) -> None:
    done = cli(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("azr-mlx: error: ")
    assert fragment in line
    assert "--help" in line


def test_every_mistake_of_a_configuration_gets_a_line(cli: Cli) -> None:
    done = cli("train", "-c", "quikstart", "lora.rnk=3", "seed=x", "--dry-run")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "azr-mlx: error: " + line
        for line in (
            done.stderr.splitlines()[0].removeprefix("azr-mlx: error: "),
            "lora.rnk: 3: no such key; did you mean lora.rank?",
            "seed: x: not a whole number; give one without point or exponent",
        )
    ]
    assert "did you mean quickstart?" in done.stderr.splitlines()[0]


def test_an_option_that_is_a_key_of_a_group_names_the_key(cli: Cli) -> None:
    done = cli("train", "--temp", "0.7")
    assert done.returncode == 2
    assert "did you mean rollout.temperature=VALUE" in done.stderr


def test_a_temperature_is_finite(cli: Cli) -> None:
    """Infinity would be in JSON that strict readers refuse."""
    for command in (["eval", "--model", "x"], ["generate", "-p", "x"]):
        for value in ("inf", "nan"):
            done = cli(*command, "--temp", value)
            assert done.returncode == 2 and "--temp" in done.stderr and done.stdout == ""


def test_a_missing_configuration_is_answered_with_those_that_there_are(cli: Cli) -> None:
    done = cli("train", "-c")
    assert done.returncode == 2
    assert "name one of azr_config, " in done.stderr and "did you mean" not in done.stderr


def test_flags_are_configuration_too(cli: Cli) -> None:
    done = cli("train", "--backend", "jax")
    assert done.returncode == 2
    assert "backend: jax: 'jax' is not a choice" in done.stderr


def test_two_starts_are_refused(cli: Cli, tmp_path: Path) -> None:
    done = cli("train", "--resume", "--resume-adapter-file", "a.safetensors")
    assert done.returncode == 2
    assert "cannot be combined with --resume" in done.stderr


def test_a_missing_adapter_file_is_refused(cli: Cli) -> None:
    done = cli("train", "--resume-adapter-file", "a.safetensors")
    assert done.returncode == 2
    assert "a.safetensors: no such file" in done.stderr


def test_resuming_where_there_is_no_run_is_refused(cli: Cli) -> None:
    for arguments in (["--resume"], ["--resume", "runs/none"], ["--resume", "seed=3"]):
        done = cli("train", *arguments)
        assert done.returncode == 2, arguments
        assert done.stderr.startswith("azr-mlx: error: --resume "), arguments


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["train", "--resume"], ["train", "--resume", "latest"]),
        (["train", "--resume", "--quiet"], ["train", "--resume", "latest", "--quiet"]),
        (["train", "--resume", "-c", "x"], ["train", "--resume", "latest", "-c", "x"]),
        (["train", "--resume", "seed=3"], ["train", "--resume", "latest", "seed=3"]),
        (["train", "--resume", "latest"], ["train", "--resume", "latest"]),
        (["train", "--resume", "runs/x", "seed=3"], ["train", "--resume", "runs/x", "seed=3"]),
        (["train", "--resume=runs/x"], ["train", "--resume=runs/x"]),
        (["train", "seed=3"], ["train", "seed=3"]),
    ],
)
def test_resume_takes_a_value_or_none(given: list[str], read: list[str]) -> None:
    assert program._bare_resume(given) == read


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("--data=~/x y", "--data=/home/me/x y"),
        ("--data=a=~/x", "--data=a=~/x"),
        ("--prompt=~/x", "--prompt=~/x"),
        ("~/x", "~/x"),
        ("run_name=~/x", "run_name=~/x"),
    ],
)
def test_the_home_folder_behind_an_option_s_sign_is_written_out(
    given: str, read: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No shell does it there. (That of a key is written out as the configuration is read.)"""
    monkeypatch.setenv("HOME", "/home/me")
    assert program._at_home(given) == read


def test_a_run_whose_name_has_an_equals_sign_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lr=3").mkdir()
    monkeypatch.chdir(tmp_path)
    assert program._bare_resume(["--resume", "lr=3"]) == ["--resume", "lr=3"]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (AzrError("disk: full; free some"), 1, "azr-mlx: error: disk: full; free some"),
        (ZeroDivisionError("x"), 1, "azr-mlx: error: ZeroDivisionError: x (--debug shows the "),
        (OSError(28, "No space left on device", "runs/a/metrics.jsonl"), 1,
         "azr-mlx: error: runs/a/metrics.jsonl: No space left on device; make room;"),
        (RuntimeError("[malloc] Unable to allocate 9 bytes."), 1,
         "azr-mlx: error: memory ran out: [malloc] Unable to allocate 9 bytes; close other "),
        (KeyboardInterrupt(), 130, "azr-mlx: interrupted"),
    ],
)  # fmt: skip
def test_errors_become_exit_codes(
    error: BaseException,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr(program, "_run", fail)
    assert cli.main(["train"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(line)
    assert "Traceback" not in captured.err


def test_the_traceback_is_shown_with_debug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "_run", lambda arguments: 1 // 0)
    assert cli.main(["train", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_traceback(root: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(root)}
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as nobody:
        done = subprocess.run(
            [sys.executable, "-m", "azr_mlx.cli", "--help"],
            stdout=nobody,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "closed", "code"),
    [
        ("--version", ">&-", 0),
        ("--help", ">&- 2>&-", 0),
        ("train -c nothing", "2>&-", 2),
        ("train -c quickstart --dry-run", ">&-", 0),
        ("generate -m 2 --model package:azr_mlx/nano/model -p a", ">&-", 0),
    ],
)
def test_a_stream_that_is_closed_is_no_error(
    root: Path, tmp_path: Path, words: str, closed: str, code: int
) -> None:
    done = subprocess.run(
        f"{sys.executable} -m azr_mlx.cli {words} {closed}",
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
        timeout=60,
        check=False,
    )
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr


def test_a_whole_run_in_ascii(cli: Cli, root: Path) -> None:
    """What a locale that has nothing but ASCII makes of the tables, the programs and the report."""
    pytest.importorskip("mlx.core", reason="mlx is not installed")
    narrow = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    env = {**os.environ, **narrow, "PYTHONIOENCODING": "ascii:strict", "PYTHONPATH": str(root)}
    small = ["batch_size=6", "rollout.group_size=2", "held_out.tasks=1", "sandbox.workers=1"]
    words = ["train", "-c", "quickstart", "max_steps=1", *small]
    done = cli(*words, env=env)
    assert done.returncode == 0, done.stderr
    assert "step 1/1 | reward" in done.stderr and "| in range" in done.stderr
    assert (done.stdout + done.stderr).isascii()


# With a tiny model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mlx.core", reason="mlx is not installed")
    from tests.tiny import tiny_folder

    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_folder(folder)
    return folder


def test_generate_writes_the_text_to_stdout_and_the_rest_to_stderr(cli: Cli, model: Path) -> None:
    done = cli("generate", "--model", str(model), "-p", "-", "-m", "5", "--raw", input="def f")
    assert done.returncode == 0, done.stderr
    assert "tokens/s" in done.stderr and "chat template" not in done.stderr
    assert "tokens/s" not in done.stdout


def test_generate_repeats_itself_with_a_seed(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = ["generate", "--model", str(model), "-p", "def f", "-m", "8", "--temp", "1", "--json"]
    rows = []
    for seed in ("1", "1", "2"):
        assert cli.main([*fixed, "--seed", seed]) == 0
        said = capsys.readouterr()
        rows.append(json.loads(said.out))
        assert "the model has no chat template, so it continues the text" in said.err
    assert rows[0]["text"] == rows[1]["text"] != rows[2]["text"]
    assert 1 <= rows[0]["tokens"] <= 8
    assert rows[0]["finish"] in ("stop", "length")


@pytest.mark.parametrize(
    ("extra", "fragment"),
    [
        (["--adapter-path", "nowhere"], "nowhere: no such folder"),
        (["--adapter-path", "."], "no adapter_config.json in it"),
        (["--raw", "--system", "x"], "needs a chat template"),
        (["--strategy", "step_by_step"], "an instruction to a chat model"),
        (["--strategy", "auto"], "needs --tests to choose by"),
        (["--tests", "nowhere.py"], "--tests nowhere.py: cannot be read"),
    ],
)
def test_generate_refuses_what_it_cannot_do(
    cli: Cli, model: Path, extra: list[str], fragment: str
) -> None:
    done = cli("generate", "--model", str(model), "-p", "x", *extra)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert fragment in line


def test_a_program_that_no_strategy_gets_right_is_shown_and_exits_with_3(
    cli: Cli, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "t.py").write_text("assert add(1, 2) == 3\n")
    words = ["--model", str(model), "-p", "def add(a, b):", "--tests", "t.py", "-m", "4"]
    done = cli("generate", *words)
    assert done.returncode == 3
    assert done.stdout.startswith("def add(a, b):")
    assert "direct: error" in done.stderr and "no program passes the tests" in done.stderr
    row = json.loads(cli("generate", *words, "--json").stdout)
    assert row["taken"] is None and [t["strategy"] for t in row["tries"]] == ["direct"]


def test_a_program_that_passes_is_said_with_its_strategy(
    cli: Cli, model: Path, tmp_path: Path
) -> None:
    """The prompt is the whole program: whatever follows a new function is cut."""
    (tmp_path / "t.py").write_text("assert add(1, 2) == 3\n")
    prompt = "def add(a, b):\n    return a + b\n# "  # a comment swallows what a random model says
    words = ["--model", str(model), "-p", prompt, "--tests", "t.py", "-m", "4", "--raw"]
    done = cli("generate", *words)
    assert done.returncode == 0, done.stderr
    assert "the tests pass, with strategy direct" in done.stderr
    assert done.stdout.startswith("def add")


def test_messages_name_the_program_that_was_called() -> None:
    """``run.sh`` says how it was called: who has a checkout alone has no azr-mlx on the path."""
    environment = {**os.environ, "AZR_MLX_PROGRAM": "./run.sh"}
    for given, said in (
        (["nothing"], "see ./run.sh --help"),
        (["report", "--nothing"], "see ./run.sh report --help"),
        (["report", "--help"], "Usage: ./run.sh report"),
    ):
        command = [sys.executable, "-m", "azr_mlx", *given]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert said in done.stdout + done.stderr
