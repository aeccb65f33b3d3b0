"""Where models come from: architectures as data, torchvision's list, teaching models, trained checkpoints, a person's own. Looking them up: `core.zoo`."""
