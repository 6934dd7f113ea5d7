"""Convert a model to MLX's format: the same as ``azr-mlx convert``."""

import sys

from azr_mlx.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
