"""What is on disk: atomic writes, and the formats that models are kept in."""
