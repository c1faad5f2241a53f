"""Parts of the mutation run."""
