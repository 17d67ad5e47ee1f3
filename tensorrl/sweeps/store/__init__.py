"""One folder of cells that any number of sweeps share, and how they stand."""
