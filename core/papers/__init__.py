"""Papers beside ours: what the classics published, the runs that do them again here, and both as tables and charts."""
