"""Pages that show what happened: each one a single HTML file that needs no network."""
