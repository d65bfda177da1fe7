"""Networks, convolutions with fast forms, and layers that draw noise."""
