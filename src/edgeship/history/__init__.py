"""What finished runs came to, over time: an SQLite file beside the project that every run is appended to."""
