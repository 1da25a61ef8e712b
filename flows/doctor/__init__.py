"""The command `hinge doctor`, which checks an installation and says what to do."""
