"""Users for Locust that speak the lab's protocol; scenarios name concrete ones."""
