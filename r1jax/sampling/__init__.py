"""The sampler: prefill, decoding, token processing and memory estimates."""
