"""Atomic writes, strict JSON and TOML, line records, path checks: files as such, knowing nothing of models."""
