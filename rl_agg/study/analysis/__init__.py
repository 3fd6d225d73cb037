"""A study's records and folder, and the numbers computed from them."""
