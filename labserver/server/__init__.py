"""What serves: the six seams, connections, rooms, and what operators see."""
