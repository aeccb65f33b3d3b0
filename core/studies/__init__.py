"""Runs looked at together: what is shipped, what is known, rows for charts, and reports."""
