"""A study of studies: designs replayed many times on a table whose every answer is known."""
