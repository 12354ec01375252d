"""The embedded demo: scenes of handwritten digits, questions about them, and the model that answers."""
