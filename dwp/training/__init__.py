"""The one fit loop, with schedules, checkpoints, devices and signals."""
