"""What people read of a run: summaries of its tables."""
