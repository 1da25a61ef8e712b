"""The command `hinge completion`, which prints a shell's completion script."""
