"""The bundled model: a rendered world of emoji scenes, its text, and the recipe that trains a BLIP-2 on it.

Importing this package loads neither torch nor transformers; `python -m model.emoji --help` lists the commands.
"""
