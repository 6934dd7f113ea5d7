"""The user's verbs: one module a command."""
