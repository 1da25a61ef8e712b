"""Shared parts of the commands: options, exit statuses, defaults, running a plan."""
