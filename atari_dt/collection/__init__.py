"""Players that make replay data, and the recorder that writes their episodes as a replay log."""
