"""The backends that run a model, MLX and PyTorch, behind one Protocol (see ``base``)."""
