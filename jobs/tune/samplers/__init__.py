"""The space of a study, and who asks for its next trial."""
