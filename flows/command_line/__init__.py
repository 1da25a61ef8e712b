"""What all commands share: options, the terminal, exit statuses, defaults."""
