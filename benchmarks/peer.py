"""What an adapter does: the interface through which ``step`` and ``rollout`` drive a library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import side_by_side as sbs
from side_by_side import RANK, SCALE, Clock, Work

CLIP = 0.2
Completions = list[list[int]]
Losses = Callable[[str, float], float]


class Adapter:
    """One library on one model. Completions come back prompt by prompt, as token ids that include
    the one that ended them."""

    def __init__(self, work: Work):
        self.work = work
        self.variant = work.library.partition(":")[2]
        self.model, self.tokenizer = sbs.build_model(work)
        self.texts = sbs.prompts(work, self.tokenizer)
        self.ids = [tuple(self.tokenizer.encode(text)) for text in self.texts]
        self.prepare()
        sbs.fill_adapters(self.model)

    def prepare(self) -> None:
        """Add the adapters to the model, in the library's way."""
        raise NotImplementedError

    def rollout(self, seed: int, temperature: float = 1.0) -> Completions:
        raise NotImplementedError

    def train(self, clock: Clock) -> None:
        """``clock.total`` steps: rollouts, reward, update."""
        raise NotImplementedError

    def losses(self, frozen: Completions, advantages: Sequence[float]) -> Losses:
        """A function of (normalisation, beta): the loss on these completions; its gradients go
        through ``mlx.optimizers.Optimizer.update``. KeyError on a normalisation it has not."""
        raise NotImplementedError

    def version(self) -> str:
        raise NotImplementedError

    def work_facts(self) -> dict[str, Any]:
        """What has to be the same in every library before anything is timed."""
        from mlx.utils import tree_flatten

        leaves = tree_flatten(self.model.parameters())
        adapters = sum(value.size for name, value in leaves if "lora_" in name)
        return {
            "weights": sum(value.size for _, value in leaves) - adapters,
            "adapters": adapters,
            "dtypes": sorted({str(value.dtype) for _, value in leaves}),
            "prompts": [list(ids) for ids in self.ids],
            "rows": self.work.rows,
        }

    def lora(self) -> None:
        """LoRA as mlx-lm's own ``mlx_lm.lora`` adds it."""
        from mlx_lm.tuner.utils import linear_to_lora_layers

        self.model.freeze()
        settings = {"rank": RANK, "scale": SCALE, "dropout": 0.0}
        linear_to_lora_layers(self.model, len(self.model.layers), settings)

    def adamw(self) -> Any:
        import mlx.optimizers as optim

        return optim.AdamW(learning_rate=self.work.lr, weight_decay=0.0, bias_correction=True)


def end_of_loop(clock: Clock, done: Completions) -> None:
    """End a step of a library whose loop is one function: what is neither rollout nor reward is
    its update."""
    clock.end(done)
    if clock.kept:
        row = clock.kept[-1]
        row.setdefault("update", row["wall"] - row["rollout"] - row["reward"])
