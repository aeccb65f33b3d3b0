"""The compression methods, one file each. Importing this package registers their steps and imports no torch."""

from core.methods import calibrate_batchnorm, channel_prune, distill, finetune, magnitude_prune, quantize  # noqa: F401
