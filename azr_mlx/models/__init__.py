"""Finding, downloading, reading and converting models."""
