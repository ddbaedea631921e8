"""Conversations with models that carry a chat template."""
