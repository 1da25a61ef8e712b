"""The part of the reproduction of the notes that no other experiment covers."""
