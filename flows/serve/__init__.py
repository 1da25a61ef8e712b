"""The workbench in the foreground: `hinge serve`."""
