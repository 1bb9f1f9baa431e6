"""HTTP: connections, bodies, limits, routing. It knows no API."""
