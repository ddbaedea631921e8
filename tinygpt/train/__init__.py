"""Training: settings, the loop, what it writes, what it reports."""
