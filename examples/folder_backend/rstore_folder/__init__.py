"""A backend of rstore that keeps each namespace in one file of a folder: `folder://PATH`. An example, for POSIX."""
