"""Experiments of the chapters: each measures one thing, and returns it or draws it."""
