"""The training loop, with schedules, checkpoints, devices and signals."""
