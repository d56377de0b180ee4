"""The durable state of a run: documents, leases and blobs, and what the roles do with them."""
