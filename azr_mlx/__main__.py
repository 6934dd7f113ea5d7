"""``python -m azr_mlx`` is ``azr-mlx``."""

import sys

from azr_mlx.cli import main

sys.exit(main())
