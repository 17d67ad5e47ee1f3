"""Runs a sweep's cells on one machine or a Ray cluster."""
