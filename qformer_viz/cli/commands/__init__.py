"""The commands, one file each; `qformer_viz.cli.command.all_commands` finds them."""
