"""The cluster process: its book-keeping, what runs on its workers, who may compute now, and how it is found. What asks it: `core.cluster`."""
