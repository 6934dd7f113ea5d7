"""Benchmarks: samples from a model or a file, verdicts from the sandbox, pass@k with its interval.

    with Sandbox() as sandbox:
        result = Evaluation(backend, load("humaneval"), Settings(), sandbox).run(Store())
    print(result.figures["pass@1"].value)

Every result states its protocol. Two results are comparable only where their protocols are equal.
"""
