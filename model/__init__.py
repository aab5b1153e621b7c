"""The bundled models: the recipe that trains a BLIP-2 on rendered emoji scenes, its evaluation and its cards."""
