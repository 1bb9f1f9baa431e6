"""Routes for operators: health, metrics, the page, tokenization, administration, the OpenAPI document."""
