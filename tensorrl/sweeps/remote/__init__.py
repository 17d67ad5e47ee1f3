"""Machines that share no folder: how their cells meet in an object store."""
