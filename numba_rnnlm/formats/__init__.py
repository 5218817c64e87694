"""File formats: our own, and the conventions of other libraries."""
