"""People's voices, rooms and noises → clips in the catalogue.

Reads satellites, uploads, folders, manifests and public corpora; writes ``audio/`` and rows of ``clips``. Of people who
are asked to speak it notes their consent and their sessions.
"""
