"""Messages, their encoding and the transports that carry them. No torch."""
