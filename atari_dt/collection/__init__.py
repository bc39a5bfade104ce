"""Players that make replay data, and the recorder that writes what they play as a log."""
