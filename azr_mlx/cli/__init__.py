"""The command line.

Exit codes: 0 ok; 1 the run failed; 2 usage or configuration; 3 a check failed; 130 interrupted.
"""

from azr_mlx.cli.commands import app
from azr_mlx.cli.program import main

__all__ = ["app", "main"]
