"""``python -m azr_mlx.cli`` is ``azr-mlx``."""

import sys

from azr_mlx.cli.program import main

sys.exit(main())
