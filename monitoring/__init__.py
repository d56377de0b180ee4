"""What people see of a run: progress from the roles' events, and reports from what it has left behind."""
