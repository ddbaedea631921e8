"""Model formats: Hugging Face directories, safetensors, GGUF, config.json, adapters; import and export."""
