"""The long-running roles beside the coordinator: clients and server workers."""
