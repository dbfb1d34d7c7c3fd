"""The network, its streaming form and its INT8 file."""
