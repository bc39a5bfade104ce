"""The data that a benchmark lacks: recorded or downloaded, and made into trajectory stores."""
