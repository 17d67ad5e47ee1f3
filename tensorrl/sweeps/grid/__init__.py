"""The definition of a sweep: its file, its checks, and the grid of cells."""
