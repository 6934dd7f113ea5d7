"""Tasks: what they are made of, how they are posed, parsed, validated and kept."""
