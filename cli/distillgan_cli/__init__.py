"""The `distillgan` command: one `cmd_*.py` per command, each a parse, a call, a render."""
