"""One trial: its settings and description, its training, its folder, and what is read back from it."""
