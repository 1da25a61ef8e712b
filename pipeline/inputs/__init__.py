"""What decides a run: validated values, random streams, initial weights, examples, batches."""
