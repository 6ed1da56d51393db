"""One run of a study: its stages in order, what each reads and writes, and the record of what is done."""
