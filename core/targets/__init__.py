"""Devices that are not at hand: their profiles, a run's operators, estimates by roofline, and how far these can be believed."""
