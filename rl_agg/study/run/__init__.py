"""Running a study: cells, records, machines."""
