"""The command `hinge runs`, which lists recorded runs."""
