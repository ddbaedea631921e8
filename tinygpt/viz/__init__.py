"""Pages about models and training runs: each is a single HTML file that needs no network."""
