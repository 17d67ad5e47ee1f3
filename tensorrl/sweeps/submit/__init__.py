"""Sends a sweep to a Ray cluster as a job."""
