"""Files as such: atomic writes, strict JSON, line records, path checks; knows nothing of models."""
