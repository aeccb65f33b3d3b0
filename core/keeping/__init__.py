"""What is kept so that it need not be made again: on disk under byte limits, and in a process."""
