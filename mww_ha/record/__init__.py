"""People's voices, rooms and noises → clips in the catalogue.

Reads folders, manifests and public corpora; writes ``audio/`` and rows of ``clips``.
"""
