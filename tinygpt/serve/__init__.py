"""The server: many requests share one model, over HTTP or in a program."""
