"""What the tests run against: real servers in other processes, and clients that speak to them."""
