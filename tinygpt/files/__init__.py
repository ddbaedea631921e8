"""Model formats: Hugging Face directories, safetensors, GGUF, config.json."""
