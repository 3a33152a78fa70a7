"""The `acestep` command: a file per command, each a thin layer over the rooms below."""
