"""A run layer by layer: what each layer holds and takes, how sensitive it is to a step, and the figures of both."""
