"""The wire as data: messages, closing codes, frames, tokens."""
