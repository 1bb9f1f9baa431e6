"""`warpjet bench`: the engine, the start, and a server under load."""
