"""Benchmarks: samples from a model or a file, verdicts from the sandbox, pass@k with its interval.

    with Sandbox() as sandbox:
        result = Evaluation(backend, load("humaneval"), Settings(), sandbox).run(Store())
    print(result.figures["pass@1"].value)

Every result states its protocol. Two results are comparable only where their protocols are equal.
"""

from azr_mlx.evaluate.command import Report, Request, evaluate
from azr_mlx.evaluate.compare import Comparison, compare
from azr_mlx.evaluate.given import score_samples
from azr_mlx.evaluate.protocol import Protocol, Settings, Subject, half
from azr_mlx.evaluate.result import BenchmarkResult, Sample, TaskResult
from azr_mlx.evaluate.sampling import Evaluation
from azr_mlx.evaluate.store import Store, read_samples

__all__ = [
    "BenchmarkResult",
    "Comparison",
    "Evaluation",
    "Protocol",
    "Report",
    "Request",
    "Sample",
    "Settings",
    "Store",
    "Subject",
    "TaskResult",
    "compare",
    "evaluate",
    "half",
    "read_samples",
    "score_samples",
]
