"""The card of a published model: front matter with its figures for the hub, and the same for
people. It says nothing that the run's files do not hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from azr_mlx.commands.cards import PROJECT, UNKNOWN, Origin, code, front_matter, table
from azr_mlx.commands.push.figures import HELD_OUT, Figure, Found, Measured
from azr_mlx.commands.push.licence import KEYS

if TYPE_CHECKING:
    from azr_mlx.commands.export import Fused

TAGS = ("azr-mlx", "self-play", "reinforcement-learning", "code")
COLUMNS = (
    *("measured on", "answers", "metric", "before", "after", "gain in points", "tasks"),
    "answers per task",
)
GENERATED = {
    "templates": "the first tasks come from templates",
    "identity": "the first task is the identity function",
}


@dataclass(frozen=True, slots=True)
class Published:
    """What is published: the repository, the step and the run's settings by dotted key, what its
    first tasks came from ("" if that is not known), where the run comes from, its figures and the
    base model's licence. ``fused`` is None for adapters; ``files`` are the names beside the
    card."""

    to: str
    step: int
    settings: Mapping[str, str]
    seeds: str
    origin: Origin
    found: Found
    licence: Mapping[str, str]
    files: Sequence[str]
    fused: Fused | None = None

    @property
    def name(self) -> str:
        return self.to.rpartition("/")[2]

    @property
    def library(self) -> str:
        """Which library the files are for, by the hub's name. What ``export --to hf`` writes is for
        transformers first."""
        dense = self.fused is not None and self.fused.quantization is None
        return "transformers" if dense else "mlx"


def compose(one: Published) -> str:
    """The whole card."""
    parts = [
        front_matter(_front(one)),
        f"# {one.name}",
        _summary(one),
        "\n".join(f"- {name}: {text}" for name, text in _facts(one)),
        "## Figures",
        *_figures(one.found),
        "## How to use it",
        *_usage(one),
        "## Files",
        _files(one),
        "## Licence",
        _licence(one),
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


# -- front matter ----------------------------------------------------------------------------------


def _front(one: Published) -> dict[str, Any]:
    from huggingface_hub import ModelCardData
    from huggingface_hub.repocard_data import EvalResult

    base = one.origin.base.hub
    results = [EvalResult(**_indexed(figure)) for figure in one.found.figures if not figure.part]
    entries: dict[str, Any] = {
        "base_model": base,
        "base_model_relation": None if base is None else "finetune" if one.fused else "adapter",
        "library_name": one.library,
        "pipeline_tag": "text-generation",
        "tags": [one.library, *TAGS, *(() if one.fused else ("lora",))],
        **one.licence,
    }
    if results:
        entries |= {"eval_results": results, "model_name": one.name}
    made: dict[str, Any] = ModelCardData(**entries).to_dict()  # type: ignore[no-untyped-call]
    return made


def _indexed(figure: Figure) -> dict[str, Any]:
    """The figure as ``huggingface_hub.EvalResult`` takes it. Shares are between 0 and 1. Held-out
    tasks of a run are all solved by one protocol, which stands with their dataset."""
    extent: dict[str, Any] = {"tasks": figure.tasks, "answers_per_task": figure.samples}
    told = {"": figure.after, "before": figure.before, "gain": figure.gain}
    for name, found in told.items():
        if found is not None and name:
            extent[name] = round(found.value, 4)
        if found is not None and found.interval is not None:
            ends = [round(end, 4) for end in found.interval]
            extent[f"{name}_interval_95".lstrip("_")] = ends
    protocol = {"protocol": dict(figure.protocol)}
    shared = figure.dataset == HELD_OUT
    return {
        "task_type": "text-generation",
        "dataset_type": figure.dataset,
        "dataset_name": figure.on,
        "dataset_config": figure.config,
        "dataset_split": figure.split,
        "dataset_args": protocol if shared else None,
        "metric_type": figure.metric,
        "metric_value": round(figure.after.value, 4),
        "metric_name": f"{figure.metric}, {figure.answers}",
        "metric_args": extent if shared else extent | protocol,
    }


# -- text ------------------------------------------------------------------------------------------


def _base(one: Published) -> str:
    base = one.origin.base
    if base.hub is None:
        return code(base.shown)
    return f"[{base.hub}](https://huggingface.co/{base.hub})"


def _summary(one: Published) -> str:
    what = "The model" if one.fused else "LoRA adapters for the model"
    alone = one.settings.get("batch_size") == "0"
    how = (
        "it solved small tasks about Python programs, which templates made, and learned from what "
        "a sandbox said about its answers"
        if alone
        else "it wrote small tasks about Python programs, solved them, and learned from what a "
        "sandbox said about its tasks and its answers"
    )
    fused = ", with the trained adapters fused into its weights" if one.fused else ""
    return f"{what} {_base(one)}{fused}, trained with {PROJECT} by self-play: {how}."


def _facts(one: Published) -> Iterator[tuple[str, str]]:
    base, starts = one.origin.base, one.origin.starts
    revision = f", revision {code(base.revision)}" if base.revision else ""
    known = "" if base.hub else " (not a repository of the hub, so that `base_model` is left out)"
    yield "base model", f"{_base(one)}{revision}{known}{_quantised(one)}"
    yield "data", _data(one)
    yield "command", code(one.origin.command)
    yield "steps", f"{one.step} of {code(one.settings.get('max_steps', UNKNOWN))}"
    yield "seed", code(one.settings.get("seed", UNKNOWN))
    if not starts:
        return
    first, last = starts[0], starts[-1]
    cores = f", {last['cores']} cores" if "cores" in last else ""
    yield "machine", code(f"{last.get('platform', UNKNOWN)}{cores}")
    yield "backend", code(last.get("backend", UNKNOWN))
    times = "once" if len(starts) == 2 else f"{len(starts) - 1} times, last"
    again = f"; resumed {times} on {_date(last)}" if starts[1:] else ""
    yield "begun", f"{_date(first)}{again}"
    versions = last.get("versions")
    named = versions.items() if isinstance(versions, dict) else ()
    shown = ", ".join(f"{name} {v}" for name, v in named if v != "not installed")
    if shown:
        yield "versions", code(shown)


def _quantised(one: Published) -> str:
    bits = one.settings.get("quantization.bits", "0")
    backend = str(one.origin.starts[-1].get("backend", "")) if one.origin.starts else ""
    if bits == "0" or backend.startswith("torch"):
        return ""
    group, mode = (one.settings.get(f"quantization.{k}", UNKNOWN) for k in ("group_size", "mode"))
    way = code(f"{mode}, {bits} bits, groups of {group}")
    return f"; quantised when it was loaded ({way}) unless it already was"


def _data(one: Published) -> str:
    if not one.seeds:
        return "self-play; what its first tasks came from is not known"
    if one.seeds in GENERATED:
        return f"none (self-play; {GENERATED[one.seeds]})"
    return f"self-play, with first tasks from {code(one.seeds)}, which is not published here"


def _date(start: Mapping[str, Any]) -> str:
    return code(str(start.get("time", UNKNOWN))[:10])


# -- figures ---------------------------------------------------------------------------------------


def _figures(found: Found) -> Iterator[str]:
    if found.figures:
        yield table(COLUMNS, [_row(one) for one in found.figures])
        yield (
            "In brackets: 95 % intervals, over tasks; a gain is paired by task. Before: held-out "
            "tasks as training began, benchmarks without the adapters. These figures are of one "
            "run with one seed: another seed gives others, and the intervals do not say how much "
            "they would differ."
        )
        yield "How it was measured:\n\n" + "\n".join(_protocols(found.figures))
    else:
        yield "None were measured with these weights."
    yield from found.notes


def _row(one: Figure) -> list[str]:
    gain = "" if one.gain is None else _shown(one.gain, "{:+.1f}")
    before = "" if one.before is None else _shown(one.before)
    shares = [before, _shown(one.after), gain]
    return [code(one.on), one.answers, one.metric, *shares, str(one.tasks), str(one.samples)]


def _shown(one: Measured, form: str = "{:.1f} %") -> str:
    value = form.format(100 * one.value)
    if one.interval is None:
        return f"{value} (no interval recorded)"
    low, high = (form.removesuffix(" %").format(100 * end) for end in one.interval)
    return f"{value} ({low} to {high})"


def _protocols(figures: Sequence[Figure]) -> Iterator[str]:
    """A line for each protocol, after the names of what was measured by it."""
    seen: list[tuple[dict[str, Any], list[str]]] = []
    for one in figures:
        protocol = dict(one.protocol)
        names = next((names for known, names in seen if known == protocol), None)
        if names is None:
            seen.append((protocol, names := []))
        if one.on not in names:
            names.append(one.on)
    for protocol, names in seen:
        told = ", ".join(f"{key} {_value(value)}" for key, value in protocol.items())
        yield f"- {', '.join(map(code, names))}: {code(told)}"


def _value(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


# -- use -------------------------------------------------------------------------------------------


def _usage(one: Published) -> Iterator[str]:
    if one.fused is None:
        yield from _use_adapters(one)
        return
    yield (
        f"```bash\nmlx_lm.generate --model {one.to} --prompt 'def f(x):'\n"
        f"azr-mlx generate --model {one.to} -p 'def f(x):'\n"
        f"azr-mlx eval --model {one.to} --benchmark humaneval\n```"
    )
    if one.library == "transformers":
        yield (
            "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f'model = AutoModelForCausalLM.from_pretrained("{one.to}")\n'
            f'tokenizer = AutoTokenizer.from_pretrained("{one.to}")\n```'
        )
    f = one.fused
    yield (
        f"The weights are {_stored(f)}. Fusing changed the log-probabilities by "
        f"{f.logp_change_mean:.2g} nats per token on average and {f.logp_change_max:.2g} at most, "
        f"over {f.measured_tokens} tokens of {f.measured_on}. The figures above were measured "
        "before it, with the adapters beside the base model."
    )


def _stored(fused: Fused) -> str:
    q = fused.quantization
    if not q:
        return fused.dtype
    return f"quantised to {q.get('bits')} bits in groups of {q.get('group_size')}"


def _use_adapters(one: Published) -> Iterator[str]:
    base = one.origin.base
    local = base.hub is None and not base.place.startswith("package:")
    named = "BASE" if base.hub is None else base.hub
    chosen = " --model BASE" if local else ""
    lines = [
        f"hf download {one.to} --local-dir {one.name}",
        f"azr-mlx generate{chosen} --adapter-path {one.name} -p 'def f(x):'",
        f"azr-mlx eval{chosen} --adapter-path {one.name} --benchmark humaneval",
        f"mlx_lm.generate --model {named} --adapter-path {one.name} --prompt 'def f(x):'",
    ]
    yield "```bash\n" + "\n".join(lines) + "\n```"
    if base.hub is None:
        yield (
            f"BASE stands for the base model {code(base.shown)}; mlx-lm needs it as a folder "
            "(`azr-mlx convert`)."
        )
    if _quantised(one):
        yield (
            "azr-mlx loads the base model quantised as it was in training. For mlx-lm, "
            "`azr-mlx convert -q` makes such a folder: adapters learn to correct the rounding of "
            "the weights that they were trained on."
        )


_TOLD = {
    "report.html": "the run in one page: curves, held-out tasks, settings",
    "config.yaml": "the resolved configuration of the run, without its paths",
    "run.json": "when and where the run was started, and the versions",
    "metrics.jsonl": "one row of metrics per step of the run",
    "held_out.json": "the held-out tasks, and every verdict before and after",
    "adapters.safetensors": "the adapters, in mlx-lm's layout",
    "adapter_config.json": "their configuration",
}


def _files(one: Published) -> str:
    told = [f"- `{name}`: {_TOLD[name]}" for name in one.files if name in _TOLD]
    return "\n".join(told) if one.fused is None else "\n".join(["- the model", *told])


def _licence(one: Published) -> str:
    if one.licence:
        named = ", ".join(code(one.licence[key]) for key in KEYS if key in one.licence)
        return f"That of the base model: {named}."
    return (
        "The base model's licence is not known from its files or from the hub, so that `license` "
        "is left out above. These weights are derived from the base model: its terms hold for them."
    )
