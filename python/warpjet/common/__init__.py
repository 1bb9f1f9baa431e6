"""Small tools that every other room may use."""
