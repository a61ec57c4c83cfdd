"""The `ledger` command's groups of commands, one module per subject."""
