"""Conversations with models that have a chat template."""
