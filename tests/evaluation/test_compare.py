"""With the adapters and without: the same tasks, the same protocol, a paired difference."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from azr_mlx.errors import UsageError
from azr_mlx.evaluation.compare import compare
from azr_mlx.evaluation.protocol import Settings, Subject
from azr_mlx.evaluation.sampling import Evaluation
from azr_mlx.evaluation.store import Store
from tests.scripted import RIGHT, WRONG, Scripted

pytestmark = pytest.mark.sandbox

ADAPTED = Subject("m", "1" * 64, "a", "2" * 64)


def learned(task, strategy, sample, policy):
    """The adapters gain tasks 2, 3 and 4, and lose task 0."""
    passes = (1, 2, 3, 4) if policy == "current" else (0, 1)
    return RIGHT if task in passes else WRONG


def measure(small, sandbox, policy, settings=None, script=learned):
    subject = ADAPTED if policy == "current" else ADAPTED.bare
    evaluation = Evaluation(
        Scripted(script),
        small,
        settings or Settings(),
        sandbox,
        subject=subject,
        policy=policy,
    )
    return evaluation.run(Store())


def test_both_columns_the_difference_and_what_it_is_worth(small, sandbox):
    found = compare(measure(small, sandbox, "reference"), measure(small, sandbox, "current"))
    gap = found.differences["pass@1"]
    assert gap.value == pytest.approx(2 / 6) and gap.low <= gap.value <= gap.high
    assert gap.low < 0 < gap.high
    assert found.gained == ("HumanEval/2", "HumanEval/3", "HumanEval/4")
    assert found.lost == ("HumanEval/0",)
    assert found.p_value == pytest.approx(2 * 5 / 16)  # four coins, at most one head
    shown = "\n".join(found.lines())
    assert "66.7%" in shown and "33.3%" in shown and "+33.3 points" in shown
    assert "3 tasks gained, 1 lost; McNemar's exact test: p = 0.62" in shown
    assert json.loads(json.dumps(found.to_json()))["lost"] == ["HumanEval/0"]


def test_the_base_is_measured_with_the_adapters_off(small, sandbox):
    base = measure(small, sandbox, "reference")
    assert base.protocol.adapter == base.protocol.adapter_sha256 == ""
    assert base.protocol.model_sha256 == ADAPTED.model_sha256
    assert base.pass_at[1].value == pytest.approx(2 / 6)


def test_several_samples_have_no_yes_or_no(small, sandbox):
    settings = Settings(num_samples=2, ks=(1, 2), temperature=0.5)
    found = compare(*(measure(small, sandbox, p, settings) for p in ("reference", "current")))
    assert list(found.differences) == ["pass@1", "pass@2"]
    assert found.p_value is None and "McNemar" not in "\n".join(found.lines())


def test_equal_results_differ_by_nothing(small, sandbox):
    found = compare(*(measure(small, sandbox, "current") for _ in range(2)))
    gap = found.differences["pass@1"]
    assert gap.value == 0 and -0.6 < gap.low < 0 < gap.high < 0.6, "of six tasks"
    assert found.gained == found.lost == () and found.p_value == 1.0
    shown = "\n".join(found.lines())
    assert "difference +0.0 points (95 % interval -" in shown and "over 6 tasks)" in shown


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (Settings(temperature=0.5), "temperature"),
        (Settings(max_tokens=9), "max_tokens"),
        (Settings(limit=3), "subset"),
        (Settings(seed=1), "seed"),
    ],
)
def test_results_of_another_protocol_are_not_compared(other, named, small, sandbox):
    one, two = measure(small, sandbox, "reference"), measure(small, sandbox, "current", other)
    with pytest.raises(UsageError, match=f"{named} is .* only results of the same protocol"):
        compare(one, two)


def test_other_data_or_another_model_are_not_compared(small, sandbox):
    one = measure(small, sandbox, "current")
    for change in ({"data_sha256": "0"}, {"model_sha256": "0"}, {"version": "0"}):
        with pytest.raises(UsageError, match=next(iter(change))):
            compare(one, replace(one, protocol=replace(one.protocol, **change)))
