"""The compression methods, one file each. Importing this package registers their steps and imports no torch."""
