"""A real-time WebSocket server in seven stages, to be read and measured."""

__version__ = "0.1.0"
