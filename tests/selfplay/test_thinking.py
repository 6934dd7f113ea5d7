"""Self-play with a model that thinks: what it thinks is trained, and is never an answer."""

from dataclasses import replace

import pytest

from azr_mlx.config import Config, Proposer, Rollout, Solver
from azr_mlx.sandbox import Sandbox
from azr_mlx.selfplay.round import Round
from azr_mlx.selfplay.round_log import RoundLog
from azr_mlx.tasks.thinking import Thoughts
from azr_mlx.training.algorithm import SelfPlay
from azr_mlx.types import Role, Status
from tests.fake import CharTokenizer, FakeBackend

pytestmark = pytest.mark.sandbox

LIMIT = 4096
CONFIG = Config(
    batch_size=2,
    task_types=("deduction",),
    initial_difficulty=0.1,
    rollout=Rollout(
        form="chat",
        thinking="on",
        group_size=4,
        max_prompt_tokens=8192,
        max_propose_tokens=LIMIT,
        max_solve_tokens=LIMIT,
    ),
    proposer=Proposer(references=1, templates_per_step=0),
    solver=Solver(strategies=("direct",)),
)
PROPOSAL = "<answer>\n```python\ndef f(x):\n    return x * 2\n```\n```input\n3\n```\n"
ANSWER = "<answer>\n```output\n6\n```\n"


class Chat(CharTokenizer):
    """Its template opens a thought, or closes it."""

    chat_template = "<think>{{ enable_thinking }}"

    def apply_chat_template(self, conversation, *, enable_thinking, **_):
        text = "".join(f"<{turn['role']}>{turn['content']}" for turn in conversation)
        return text + "<assistant>" + ("<think>" if enable_thinking else "<think></think>")


class Thinker(FakeBackend):
    def __init__(self, script):
        super().__init__(script)
        self.tokenizer = Chat()

    def generate(self, prompts, sampling, keys, on_step=None, policy="current"):
        made = [
            self._split(prompt, done)
            for prompt, done in zip(prompts, super().generate(prompts, sampling, keys), strict=True)
        ]
        if on_step is not None:
            on_step(list(enumerate(made)))
        return made

    def _split(self, prompt, done):
        thought, text = Thoughts(prompt.text).split(done.text)
        return replace(done, thought=thought, text=text.partition("</answer>")[0])


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=1) as running:
        yield running


def test_a_round_of_thoughts(sandbox):
    solved, proposed = [], []

    def script(prompt, n):
        assert prompt.text.endswith("<think>") and "</answer>" in prompt.stop
        if prompt.strategy == "":
            proposed.append(prompt)
            cut = len(proposed) % 2 == 0
            return PROPOSAL * (LIMIT // 10) if cut else f"{ANSWER}?</think>{PROPOSAL}</answer>"
        solved.append(prompt)
        if len(solved) % 2:
            return f"<answer>7</answer>, no.</think>{ANSWER}</answer>"
        return ANSWER * (LIMIT // 10)

    backend = Thinker(script)
    game, log = SelfPlay(CONFIG, backend, sandbox), RoundLog()
    game.seed()
    game.play(Round(0, 1), log)
    written = [e for e in log.experiences if e.role is Role.PROPOSE]
    answers = [e for e in log.experiences if e.role is Role.SOLVE]
    assert [e.verdict.status for e in written] == [Status.OK, Status.FORMAT]
    assert [e.verdict.status for e in answers] == [Status.PASS, Status.FORMAT] * 2
    for cut in (written[1], *answers[1::2]):
        assert cut.verdict.detail == "cut: the limit came within the thought"
        assert (cut.completion.text, cut.completion.finish) == ("", "length")
    metrics = log.metrics()
    assert metrics["len/truncated_rate"] == 0.5 and metrics["propose/reject/format"] == 0.5
    game.learner.learn(Round(0, 1), log.trained, game.memory.solutions)
    whole = {len(e.completion.token_ids) for e in log.experiences if e.reward.total > 0}
    trained = {int(row.sum()) for batch, *_ in backend.updates for row in batch.mask}
    assert whole <= trained, "the tokens of a thought are trained"


def test_off_has_the_model_answer_at_once(sandbox):
    def script(prompt, n):
        assert prompt.text.endswith("<think></think>")
        return f"{ANSWER if prompt.strategy else PROPOSAL}</answer>"

    config = replace(CONFIG, rollout=replace(CONFIG.rollout, thinking="off"))
    game, log = SelfPlay(config, Thinker(script), sandbox), RoundLog()
    game.seed()
    game.play(Round(0, 1), log)
    assert all(e.verdict.passed for e in log.experiences if e.role is Role.SOLVE)
