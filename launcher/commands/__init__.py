"""The subcommands: a module or a folder each."""
