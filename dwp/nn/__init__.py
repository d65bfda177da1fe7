"""Networks, fast convolutions of small maps, and stochastic layers."""
