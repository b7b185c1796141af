"""How a run is watched: one reader per run and server, any number of viewers by SSE or Socket.IO."""
