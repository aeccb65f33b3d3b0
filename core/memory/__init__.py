"""Training with less memory: activations that are computed again, what that holds as measured, and a limit for it."""
