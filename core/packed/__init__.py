"""The packed file from inside: one weight in it, its entropy coder, and where each byte went. The file itself: `core.artifact`."""
