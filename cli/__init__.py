"""The splitee command: reads settings, wires adapters, starts roles."""
