"""Machines that share no folder exchange their cells through an object store, the remote."""
