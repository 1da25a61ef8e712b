"""Code generators for vector instructions, which the compiled loops call."""
