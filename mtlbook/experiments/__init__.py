"""The papers' protocols, as thin functions that the notebooks call."""
