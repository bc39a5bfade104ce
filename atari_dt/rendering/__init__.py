"""Turn results into tables, figures, videos and reports."""
