"""The commands of `hinge`, one file each. They import what they need when they run."""
