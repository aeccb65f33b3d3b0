"""The packed file from inside: one weight in it, its entropy coder, and where each byte went. The file itself: `core.artifact`."""

FORMAT = 3  # of the files that are written where a weight lies on a grid; `core.artifact` reads all up to it
