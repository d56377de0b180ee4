"""Rounds, membership and the store of a run."""
