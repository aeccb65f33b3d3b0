"""What a teacher teaches: students with a teacher and alone, its answers to a few pictures, and the figures of both."""
