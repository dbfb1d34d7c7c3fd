"""What satellites heard → captures, judged by people → clips again, and rates of the field.

Reads uploads (``receive``), models (``score``) and verdicts (``review``). Writes ``captures/``, rows of the catalogue,
and clips of origin *captured*. Nothing becomes a clip before a person has judged it.
"""
