"""The method: halves, exits, averaging and data. torch, no network."""
