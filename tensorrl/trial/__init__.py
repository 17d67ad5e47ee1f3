"""One trial: its settings and description, its training, its folder, and the readers of that folder."""
