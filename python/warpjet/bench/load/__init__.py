"""warpjet bench serve: load on any server that speaks the OpenAI API, and what its users would have felt."""
