"""Listeners of the roles' events: progress display and metrics files."""
