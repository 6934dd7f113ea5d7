"""The proposer: tasks written by the model, in answer to tasks that it is shown, and tasks from
templates. All of them pass the same gate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from azr_mlx.backends.base import Backend, Sampling
from azr_mlx.config import Config
from azr_mlx.errors import AzrError
from azr_mlx.selfplay.round import CUT, Proposed, Round, Validated
from azr_mlx.tasks import templates
from azr_mlx.tasks.buffer import TaskBuffer
from azr_mlx.tasks.gate import Draft, Gate, GateRules, Runner
from azr_mlx.tasks.parse import Proposal, is_reserved, parse_proposal, skeleton
from azr_mlx.tasks.program import beginning
from azr_mlx.tasks.prompts import PromptForm, chosen_form, render
from azr_mlx.types import Completion, Prompt, Task, TaskKind

# An eighth of all shapes is reserved, so that a set with many shapes never comes near this.
MOST_RESERVED = 200
# So many known shapes in a row, and the next level's are tried: a level may have a few dozen only.
MOST_KNOWN, NEXT_LEVEL = 20, 0.1

Levels = Mapping[TaskKind, float]  # the difficulty that each kind is proposed at
Shape = tuple[TaskKind, str]


@dataclass(slots=True)
class NewShapes:
    """What a round knows of the shapes that templates have: which it has used, and the kinds of
    which it has found no new one. These are not searched again, which would take long."""

    used: set[Shape] = field(default_factory=set)
    ended: set[TaskKind] = field(default_factory=set)


class ProposalError(AzrError):
    """No valid task came out of the allowed attempts."""


class _Request(NamedTuple):
    """What the model is asked; ``program`` is the one that an induction task is wanted for, and
    ``beginning`` what another program goes on from."""

    kind: TaskKind
    level: float
    prompt: Prompt
    references: tuple[Task, ...]
    program: str = ""
    beginning: str = ""


class TaskProposer:
    """Makes validated tasks, from the model if it has a backend, else from templates.

    ``buffer`` supplies the tasks that the model is shown, and receives the new ones; without one
    the proposer keeps its own.

    >>> with Sandbox() as sandbox:
    ...     task = TaskProposer(sandbox).propose("deduction", difficulty=0.7)
    """

    def __init__(
        self,
        sandbox: Runner,
        *,
        backend: Backend | None = None,
        form: PromptForm | str | None = None,
        config: Config | None = None,
        buffer: TaskBuffer | None = None,
        seed: int = 0,
        max_attempts: int = 32,
    ) -> None:
        self.config = c = config or Config()
        self.backend, self.seed, self.max_attempts = backend, seed, max_attempts
        self.buffer = TaskBuffer(c.task_buffer_size) if buffer is None else buffer
        self.gate = Gate(sandbox, GateRules.from_config(c), self.buffer)
        self.form = chosen_form(form, c)
        self._calls = 0

    def propose(self, kind: TaskKind | str, difficulty: float = 0.5, *, step: int = 0) -> Task:
        """A validated task of a kind, new to the buffer, which it joins.

        ``difficulty`` in [0, 1]. The n-th call of a proposer with the same seed and history gives
        the same task. Raises ValueError for an unknown kind or difficulty, ``ProposalError`` after
        ``max_attempts`` rejected proposals.
        """
        kind = _kind(kind)
        if not 0.0 <= difficulty <= 1.0:
            raise ValueError(f"difficulty = {difficulty!r}: must lie in [0, 1]")
        reasons: Counter[str] = Counter()
        for _ in range(self.max_attempts):
            r = Round(self.seed, step, self._calls)
            self._calls += 1
            make = self._from_templates if self.backend is None else self._from_model
            [(_, result)] = self.validate(r, make(r, [kind], {kind: difficulty}))
            if result.task is not None:
                return result.task
            reasons[result.reason] += 1
        why = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        raise ProposalError(
            f"{kind.value} at difficulty {difficulty}: "
            f"no valid proposal in {self.max_attempts} ({why}); allow more, or use templates"
        )

    def propose_batch(self, r: Round, levels: Levels) -> list[Proposed]:
        """The proposals of a round: ``batch_size`` of the model, and ``templates_per_step`` from
        templates, over the kinds in turn."""
        c = self.config
        with r.phase("propose"):
            kinds = r.in_turn(tuple(levels), c.batch_size)
            asked = self._from_model(r, kinds, levels) if kinds else []
            turns = r.in_turn(tuple(levels), c.proposer.templates_per_step)
            return asked + self._from_templates(r, turns, levels)

    def validate(self, r: Round, proposals: Sequence[Proposed]) -> list[Validated]:
        """The gate's word on each proposal. What is valid is a task of the buffer from now on."""
        with r.phase("verify"):
            results = self.gate.admit([p.draft for p in proposals], trace=True)
        return [Validated(*pair) for pair in zip(proposals, results, strict=True)]

    # -- by the model ------------------------------------------------------------------------------

    def _from_model(self, r: Round, kinds: Sequence[TaskKind], levels: Levels) -> list[Proposed]:
        """One proposal a place of ``kinds``; of induction there may be fewer, or none. Those of one
        kind are shown the same references, and form a group; those that go on from known programs
        form one of their own."""
        assert self.backend is not None
        places = {kind: place for place, kind in enumerate(levels)}
        groups = {(kind, further): r.new_group() for further in (False, True) for kind in levels}
        others = [(i, kind) for i, kind in enumerate(kinds) if kind is not TaskKind.INDUCTION]
        shown = {k: self._references(r, k, places[k], levels[k]) for _, k in others}
        asked = [self._request(r, i, k, levels[k], shown[k]) for i, k in others]
        if induction := len(kinds) - len(others):
            asked += self._for_induction(r, induction, levels)
        done = self._completions(r, [one.prompt for one in asked])
        return [
            Proposed(
                self._draft(r, one, completion),
                one.prompt,
                completion,
                groups[one.kind, bool(one.beginning)],
                one.references,
            )
            for one, completion in zip(asked, done, strict=True)
        ]

    def _completions(self, r: Round, prompts: Sequence[Prompt]) -> list[Completion]:
        assert self.backend is not None
        if not prompts:
            return []
        rollout = self.config.rollout
        sampling = Sampling(rollout.max_propose_tokens, rollout.temperature, rollout.top_p)
        keys = [r.key("propose", i) for i in range(len(prompts))]
        return self.backend.generate(prompts, [sampling] * len(prompts), keys)

    def inputs_for(self, r: Round, programs: Sequence[str]) -> dict[str, Proposal]:
        """The inputs, and a message, that the model gives to each program, asked as for induction.
        Those are left out whose prompt is too long, or whose answer has no input.

        The proposer must have a backend.
        """
        kind, level = TaskKind.INDUCTION, self.config.initial_difficulty
        prompts = {
            program: self._rendered(kind, [], level, program=program) for program in programs
        }
        most = self.config.rollout.max_prompt_tokens
        prompts = {one: prompt for one, prompt in prompts.items() if len(prompt.token_ids) <= most}
        done = self._completions(r, list(prompts.values()))
        read = {
            program: parse_proposal(completion.text, kind, self.form, program)
            for program, completion in zip(prompts, done, strict=True)
        }
        return {program: one for program, one in read.items() if one is not None}

    def _references(self, r: Round, kind: TaskKind, place: int, level: float) -> list[Task]:
        draw = r.draw("references", place)
        return self._drawn(kind, self.config.proposer.references, level, draw)

    def _drawn(
        self, kind: TaskKind, count: int, level: float, draw: np.random.Generator
    ) -> list[Task]:
        p = self.config.proposer
        if p.reference_choice == "uniform":
            return self.buffer.sample(kind, count, draw)
        wanted = p.target_solve_rate if p.reference_choice == "solve_rate" else None
        return self.buffer.references(kind, count, level, draw, wanted)

    def _for_induction(self, r: Round, count: int, levels: Levels) -> list[_Request]:
        """Requests for induction tasks of different programs that have none yet: a second one of a
        program would be refused, whatever its inputs.

        If the buffer has too few, templates give the rest. In a run without templates there are
        fewer requests then; if nothing but induction is proposed, no other kind would ever bring a
        program, and there is at least one.
        """
        kind, draw = TaskKind.INDUCTION, r.draw("programs", 0)
        level = levels[kind]
        known = self.buffer.programs()
        chosen = [known[i] for i in draw.permutation(len(known))[:count]]
        programs: list[tuple[str, tuple[Task, ...]]] = [(task.program, (task,)) for task in chosen]
        shapes = NewShapes({(kind, skeleton(task.program)) for task in chosen})
        alone = int(len(levels) == 1)
        wanted = count if self.config.proposer.templates_per_step else alone
        for _ in range(wanted - len(chosen)):
            proposal, _ = self._fresh(kind, level, draw, shapes)
            programs.append((proposal.program, ()))
        return [
            _Request(kind, level, self._rendered(kind, [], level, program=program), shown, program)
            for program, shown in programs
        ]

    def _request(
        self, r: Round, index: int, kind: TaskKind, level: float, references: list[Task]
    ) -> _Request:
        if extending := self._extending(r, index, kind, level, references):
            return extending
        references, prompt = self._fitting(kind, references, level)
        return _Request(kind, level, prompt, tuple(references))

    def _extending(
        self, r: Round, index: int, kind: TaskKind, level: float, references: list[Task]
    ) -> _Request | None:
        """A request to go on from a known program, if the draw is for one and the program can be
        gone on from."""
        draw = r.draw("extended", index)
        if draw.random() >= self.config.proposer.extended:
            return None
        for task in self._drawn(kind, 1, level, draw):
            if start := beginning(task.program):
                others = [one for one in references if one.id != task.id]
                others, prompt = self._fitting(kind, others, level, start)
                if len(prompt.token_ids) <= self.config.rollout.max_prompt_tokens:
                    return _Request(kind, level, prompt, (task, *others), beginning=start)
        return None

    def _fitting(
        self, kind: TaskKind, references: list[Task], level: float, start: str = ""
    ) -> tuple[list[Task], Prompt]:
        """As many of the references as fit into ``rollout.max_prompt_tokens``, and the prompt."""
        most = self.config.rollout.max_prompt_tokens
        prompt = self._rendered(kind, references, level, beginning=start)
        while references and len(prompt.token_ids) > most:
            references = references[:-1]
            prompt = self._rendered(kind, references, level, beginning=start)
        return references, prompt

    def _rendered(
        self, kind: TaskKind, references: list[Task], level: float, **given: str
    ) -> Prompt:
        """The prompt, with the ``program`` or the ``beginning`` that is ``given``."""
        assert self.backend is not None
        count = self.config.proposer.induction_inputs
        output = self.form.propose(kind, references, level, n_inputs=count, **given)
        thinking = self.config.rollout.thinks
        return render(output, self.backend.tokenizer, thinking=thinking)

    def _draft(self, r: Round, asked: _Request, completion: Completion) -> Draft:
        given = asked.program, asked.beginning
        proposal = parse_proposal(completion.text, asked.kind, self.form, *given)
        lacking = CUT if completion.cut_before_answer else ""
        parents = tuple(task.id for task in asked.references)
        return Draft(proposal, asked.kind, asked.level, r.step, parents, lacking=lacking)

    # -- from templates ----------------------------------------------------------------------------

    def _from_templates(
        self, r: Round, kinds: Sequence[TaskKind], levels: Levels
    ) -> list[Proposed]:
        return [Proposed(draft) for draft in self.templates(r, [(k, levels[k]) for k in kinds])]

    def templates(self, r: Round, wanted: Sequence[tuple[TaskKind, float]]) -> list[Draft]:
        """A round's drafts from templates, one for each kind and level: of shapes that are not
        reserved, and no harder than ``proposer.hardest_template``. Each has a shape of its own that
        the buffer does not have, or else it would be refused. If there seems to be none at its
        level, it is from a harder one.

        Raises AzrError if the templates seem to have reserved shapes only, as a plug-in may.
        """
        shapes, drafts = NewShapes(), list[Draft]()
        for index, (kind, level) in enumerate(wanted):
            draw = r.draw("templates", index)
            proposal, level = self._fresh(kind, level, draw, shapes)
            drafts.append(Draft(proposal, kind, level, r.step, source="template"))
        return drafts

    def _fresh(
        self, kind: TaskKind, level: float, draw: np.random.Generator, shapes: NewShapes
    ) -> tuple[Proposal, float]:
        """A template of a new shape, or of a known one if there seems to be none, and its level."""
        p, known = self.config.proposer, 0
        level = min(level, p.hardest_template)
        for _ in range(MOST_RESERVED):
            proposal = templates.draw(kind, level, draw, p.induction_inputs, p.template_set)
            if self.gate.rules.reserve and is_reserved(proposal.program):
                continue
            shape = (kind, skeleton(proposal.program))
            if shape not in shapes.used and not self.buffer.is_duplicate(kind, proposal.program):
                shapes.used.add(shape)
                return proposal, level
            known += 1
            if kind in shapes.ended:
                break
            if known % MOST_KNOWN == 0:
                level = min(level + NEXT_LEVEL, p.hardest_template)
        if known:
            shapes.ended.add(kind)
            return proposal, level
        raise AzrError(
            f"proposer.template_set: {p.template_set}: {MOST_RESERVED} programs in a row have "
            "shapes that are reserved for held-out tasks; give it more shapes, or held_out.tasks=0"
        )


def _kind(kind: TaskKind | str) -> TaskKind:
    try:
        return TaskKind(kind)
    except ValueError:
        known = ", ".join(k.value for k in TaskKind)
        raise ValueError(f"task kind {kind!r}: must be one of {known}") from None
