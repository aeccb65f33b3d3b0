"""How long things take: a run in every runtime and why, the book of measured latencies, and the pace that bounds a preview."""
