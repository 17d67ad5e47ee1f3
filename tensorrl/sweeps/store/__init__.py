"""The store: one folder of cells that any number of sweeps share, and the status of the sweeps."""
