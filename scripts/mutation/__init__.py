"""A mutation run that is bounded by time: `mutants` makes the changes, `choice` finds the tests for a module, `run` tries a change on a
copy of the tree, `__main__` is the command. Nothing here imports proxyd."""
