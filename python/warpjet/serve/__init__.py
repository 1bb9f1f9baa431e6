"""The HTTP server: `warpjet serve`. It tokenises, dispatches and streams; everything else is the engine's."""
