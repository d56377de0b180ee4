"""A report of one or several runs, from their folders alone: one HTML file, and figures for papers."""
