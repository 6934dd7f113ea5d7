"""Models: finding, fetching, reading and converting them."""
