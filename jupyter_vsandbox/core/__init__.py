"""The one place that decides and remembers: the service, its store and its start-up checks."""
